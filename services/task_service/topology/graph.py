"""Layers wired to networks: Sequential and Functional models, nested ones too, as TF.js wires them.

Two orders matter, and both are TF.js' own. Calls of a layer are numbered in the
order in which they could be made, passing over the layers again and again. The layers of a
Functional model are listed by their distance to the outputs, the farthest first,
and among equals in the order in which they are met on the way back from the outputs.

Work is counted, because a small document can ask for very much of it
(models that use each other twice, level by level).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from learning.refusals import InvalidModel
from services.task_service.topology import rules
from services.task_service.topology.document import Config
from services.task_service.topology.layer import Shape, Weight, check_shape

_MODEL_CLASSES = ("Model", "Functional")
_NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._/]{0,255}")
"""What TF.js takes for the name of a tensor."""


class Work:
    """Counts down."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise InvalidModel(problem="the topology takes too long to follow; make it simpler")


class Layer(Protocol):
    """Something that can be called on shapes."""

    name: str

    def call(self, inputs: tuple[Shape, ...]) -> tuple[Shape, ...]: ...

    def weights(self) -> tuple[Weight, ...]:
        """In layer order; known once the layer was called."""


class PlainLayer:
    def __init__(self, class_name: str, config: Config, work: Work) -> None:
        self.name = _name(config)
        self._class_name = class_name
        self._config = config
        self._work = work
        self._weights: tuple[Weight, ...] | None = None

    def call(self, inputs: tuple[Shape, ...]) -> tuple[Shape, ...]:
        self._work.spend()
        built = rules.build(self._class_name, self._config, inputs)
        if self._weights is None:
            self._weights = tuple(replace(weight, name=f"{self.name}/{weight.name}") for weight in built.weights)
        elif [weight.shape for weight in self._weights] != [weight.shape for weight in built.weights]:
            raise self._config.refusal("it is used on inputs that need other weights")
        return built.outputs

    def weights(self) -> tuple[Weight, ...]:
        return self._weights or ()


class InputLayer:
    def __init__(self, name: str, config: Config, shape: Shape) -> None:
        self.name = name
        self.shape = shape
        self._config = config
        check_shape(config, shape)

    def call(self, inputs: tuple[Shape, ...]) -> tuple[Shape, ...]:
        raise self._config.refusal("an InputLayer takes no input")

    def weights(self) -> tuple[Weight, ...]:
        return ()


@dataclass(eq=False, slots=True)
class Call:
    """One use of a layer: what it is applied to (a call and which of its outputs), and what comes out."""

    layer: Layer
    sources: tuple[tuple[Call, int], ...]
    outputs: tuple[Shape, ...]


@dataclass(eq=False)
class Network:
    """A model; inside another one, a layer."""

    name: str
    config: Config
    layers: tuple[Layer, ...]
    calls: tuple[Call, ...]
    """Each after its sources."""
    inputs: tuple[Call, ...]
    outputs: tuple[tuple[Call, int], ...]
    work: Work

    def call(self, inputs: tuple[Shape, ...]) -> tuple[Shape, ...]:
        if len(inputs) != len(self.inputs):
            raise self.config.refusal(f"takes {len(self.inputs)} inputs, not {len(inputs)}")
        self.work.spend()
        shapes: dict[int, tuple[Shape, ...]] = {
            id(call): (shape,) for call, shape in zip(self.inputs, inputs, strict=True)
        }
        for call in self.calls:
            if id(call) not in shapes:
                shapes[id(call)] = call.layer.call(tuple(shapes[id(source)][at] for source, at in call.sources))
        return tuple(shapes[id(call)][at] for call, at in self.outputs)

    def weights(self) -> tuple[Weight, ...]:
        return tuple(weight for layer in self.layers for weight in layer.weights())


def read_network(class_name: str, config: Config, work: Work) -> Network:
    """Raises InvalidModel."""
    if class_name == "Sequential":
        return _sequential(config, work)
    if class_name in _MODEL_CLASSES:
        return _Functional(config, work).network()
    raise config.refusal(f"a model is Sequential, Functional or Model, not {class_name[:100]}")


def _name(config: Config) -> str:
    name = config.text("name")
    if not _NAME.fullmatch(name):
        raise config.refusal("a name is a letter or digit, then at most 255 of those, '-', '.', '_' and '/'")
    return name


def _read_layer(described: Config, work: Work) -> Layer:
    class_name = described.text("class_name")
    config = described.inner("config")
    named = config.get("name")
    where = f"layer {named[:100] if isinstance(named, str) else '?'} ({class_name[:100]})"
    config = described.inner("config", where)
    if class_name == "Sequential" or class_name in _MODEL_CLASSES:
        return read_network(class_name, config, work)
    if class_name == "InputLayer":
        return InputLayer(_name(config), config, _input_shape(config))
    return PlainLayer(class_name, config, work)


def _input_shape(config: Config) -> Shape:
    """The shape of what goes into a layer at the start of a model."""
    if config.has("batch_input_shape"):
        return config.shape("batch_input_shape")
    if config.has("input_shape"):
        return (None, *config.shape("input_shape"))
    if config.has("batch_shape"):
        raise config.refusal("this is the JSON of Keras 3, which TF.js cannot load; save the model with Keras 2")
    raise config.refusal("batch_input_shape is missing, and without it no weight has a shape")


def _objects(config: Config, key: str) -> list[Config]:
    objects = config.list(key)
    if not all(isinstance(each, dict) for each in objects):
        raise config.refusal(f"{key} must be a list of objects")
    return [Config(each, config.where) for each in objects if isinstance(each, dict)]


def _sequential(config: Config, work: Work) -> Network:
    layers: list[Layer] = []
    start: Call | None = None
    calls: list[Call] = []
    for described in _objects(config, "layers"):
        layer = _read_layer(described, work)
        if start is None:
            start = Call(_first_input(layer, described), (), ())
            start.outputs = (_shape_of(start.layer),)
            calls.append(start)
        if not isinstance(layer, InputLayer) or layer is not start.layer:
            before = calls[-1]
            calls.append(Call(layer, ((before, 0),), layer.call(before.outputs)))
        if len(calls[-1].outputs) != 1:
            raise config.refusal(f"layer {layer.name} has several outputs, which a Sequential model cannot have")
        layers.append(layer)
    if start is None:
        raise config.refusal("the model has no layers")
    name = config.text("name", "sequential")
    return Network(name, config, _unique(config, layers), tuple(calls), (start,), ((calls[-1], 0),), work)


def _first_input(layer: Layer, described: Config) -> InputLayer:
    """The input of a Sequential model: its first layer, that of a model inside, or one that the first layer implies."""
    if isinstance(layer, InputLayer):
        return layer
    config = described.inner("config", f"layer {layer.name}")
    if isinstance(layer, Network):
        if len(layer.inputs) != 1:
            raise config.refusal("a model inside a Sequential one must have a single input")
        return InputLayer(f"{layer.name}_input", config, layer.inputs[0].outputs[0])
    if not config.has("batch_input_shape") and not config.has("input_shape"):
        if config.has("input_dim") and described.get("class_name") == "Dense":
            return InputLayer(f"{layer.name}_input", config, (None, config.whole("input_dim")))
        if described.get("class_name") == "Embedding":
            return InputLayer(f"{layer.name}_input", config, (None, _embedding_length(config)))
    return InputLayer(f"{layer.name}_input", config, _input_shape(config))


def _embedding_length(config: Config) -> int | None:
    length = config.get("input_length")
    return None if length is None or isinstance(length, list) else config.whole("input_length")


def _shape_of(layer: Layer) -> Shape:
    assert isinstance(layer, InputLayer), "only an InputLayer has a shape before it is called"
    return layer.shape


def _unique(config: Config, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    seen: set[str] = set()
    for layer in layers:
        if layer.name in seen:
            raise config.refusal(f"the layer name {layer.name} is used twice; give every layer its own")
        seen.add(layer.name)
    return tuple(layers)


@dataclass
class _Wiring:
    """A layer of a Functional model, its calls so far, and those that still wait for others."""

    layer: Layer
    calls: list[Call | None]
    waiting: list[object] = field(default_factory=list)


class _Functional:
    """Reads one Functional model."""

    def __init__(self, config: Config, work: Work) -> None:
        self._config = config
        self._work = work
        self._wirings: dict[str, _Wiring] = {}
        self._calls: list[Call] = []

    def network(self) -> Network:
        for described in _objects(self._config, "layers"):
            self._add(described)
        self._wire()
        inputs = tuple(call for call, _ in self._ends("input_layers"))
        outputs = tuple(self._ends("output_layers"))
        if not all(isinstance(call.layer, InputLayer) for call in inputs) or len(set(map(id, inputs))) != len(inputs):
            raise self._config.refusal("input_layers must name different InputLayers")
        if not outputs:
            raise self._config.refusal("output_layers names no output")
        layers, reached = self._order([call for call, _ in outputs])
        for call in reached:
            if isinstance(call.layer, InputLayer) and call not in inputs:
                raise self._config.refusal(f"layer {call.layer.name} feeds the model but is not among its input_layers")
        calls = tuple(call for call in self._calls if call in set(reached))
        name = self._config.text("name", "model")
        return Network(name, self._config, _unique(self._config, layers), calls, inputs, outputs, self._work)

    def _add(self, described: Config) -> None:
        layer = _read_layer(described, self._work)
        if described.text("name", layer.name) != layer.name or layer.name in self._wirings:
            raise self._config.refusal(f"the layer name {layer.name} is used twice or is not the same in both places")
        calls: list[Call | None] = []
        if isinstance(layer, InputLayer):
            calls.append(Call(layer, (), (layer.shape,)))
            self._calls.extend(call for call in calls if call is not None)
        elif isinstance(layer, Network):
            # The model itself is its call number 0, which nobody outside may use.
            calls.append(None)
        self._wirings[layer.name] = _Wiring(layer, calls, described.list("inbound_nodes"))

    def _wire(self) -> None:
        """Makes every call whose sources are there, layer by layer, until all are made."""
        waiting = [wiring for wiring in self._wirings.values() if wiring.waiting]
        while waiting:
            made = 0
            for wiring in waiting:
                nodes, wiring.waiting = wiring.waiting, []
                for node in nodes:
                    self._work.spend()
                    sources = self._sources(node)
                    if sources is None:
                        wiring.waiting.append(node)
                    elif sources:
                        self._call(wiring, sources)
                        made += 1
            if not made and any(wiring.waiting for wiring in waiting):
                raise self._config.refusal("some layers wait for each other, or for a layer that is not there")
            waiting = [wiring for wiring in waiting if wiring.waiting]

    def _call(self, wiring: _Wiring, sources: tuple[tuple[Call, int], ...]) -> None:
        outputs = wiring.layer.call(tuple(source.outputs[at] for source, at in sources))
        call = Call(wiring.layer, sources, outputs)
        wiring.calls.append(call)
        self._calls.append(call)

    def _sources(self, node: object) -> tuple[tuple[Call, int], ...] | None:
        """What a call is applied to; None while that is not there yet."""
        if not isinstance(node, list):
            raise self._config.refusal(
                "inbound_nodes must hold lists, as Keras 2 writes them; save the model with Keras 2"
            )
        sources = []
        for reference in node:
            source = self._source(reference)
            if source is None:
                return None
            sources.append(source)
        return tuple(sources)

    def _source(self, reference: object) -> tuple[Call, int] | None:
        match reference:
            case [str(name), int(index), int(at), *_] if index >= 0 and at >= 0:
                wiring = self._wirings.get(name)
            case _:
                raise self._config.refusal("a connection must be a list of layer name, call number and output number")
        if wiring is None or len(wiring.calls) <= index:
            return None
        call = wiring.calls[index]
        if call is None:
            raise self._config.refusal(f"call 0 of the model {name} inside is the model itself; connect to call 1")
        if at >= len(call.outputs):
            raise self._config.refusal(f"layer {name} has no output number {at}")
        return call, at

    def _ends(self, key: str) -> list[tuple[Call, int]]:
        ends = []
        for reference in self._config.list(key):
            end = self._source(reference)
            if end is None:
                raise self._config.refusal(f"{key} names a layer or call that is not there")
            ends.append(end)
        return ends

    def _order(self, ends: Sequence[Call]) -> tuple[list[Layer], list[Call]]:
        """The layers in TF.js' order, and the calls that the ends depend on."""
        met: dict[Layer, int] = {}
        finished = _walk_back(ends, met)
        call_depth: dict[Call, int] = {}
        layer_depth: dict[Layer, int] = {}
        for call in reversed(finished):
            depth = max(call_depth.get(call, 0), layer_depth.get(call.layer, 0))
            layer_depth[call.layer] = call_depth[call] = depth
            for source, _ in call.sources:
                call_depth[source] = max(depth + 1, call_depth.get(source, 0))
        return sorted(met, key=lambda layer: (-layer_depth[layer], met[layer])), finished


def _walk_back(ends: Sequence[Call], met: dict[Layer, int]) -> list[Call]:
    """Calls in the order in which they are left on the way back; `met` numbers the layers as they are entered."""
    finished: dict[Call, None] = {}
    path: list[tuple[Call, int]] = []
    for end in ends:
        path.append((end, 0))
        while path:
            call, next_source = path.pop()
            if call in finished:
                continue
            met.setdefault(call.layer, len(met))
            if next_source < len(call.sources):
                path += [(call, next_source + 1), (call.sources[next_source][0], 0)]
            else:
                finished[call] = None
    return list(finished)
