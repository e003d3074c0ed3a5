"""Topologies for tests: small models that use every layer class that is understood."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

Topology = dict[str, Any]


def layer(class_name: str, name: str, **config: Any) -> Topology:
    return {"class_name": class_name, "config": {"name": name, "trainable": True, **config}}


def sequential(*layers: Topology, shape: Sequence[int | None], name: str = "sequential") -> Topology:
    first = {**layers[0], "config": {**layers[0]["config"], "batch_input_shape": [None, *shape]}}
    return {"class_name": "Sequential", "config": {"name": name, "layers": [first, *layers[1:]]}}


def entry(name: str, *shape: int | None) -> Topology:
    """An input of a Functional model."""
    config = {"batch_input_shape": [None, *shape], "dtype": "float32", "sparse": False, "name": name}
    return {"class_name": "InputLayer", "config": config, "name": name, "inbound_nodes": []}


def node(described: Topology, *calls: Sequence[Any]) -> Topology:
    """A layer of a Functional model; each call is a list of names, or of (name, call, output)."""
    nodes = []
    for sources in calls:
        each = [(source, 0, 0) if isinstance(source, str) else source for source in sources]
        nodes.append([[*source, {}] for source in each])
    return {**described, "name": described["config"]["name"], "inbound_nodes": nodes}


def functional(
    layers: Sequence[Topology], *, inputs: Sequence[str], outputs: Sequence[Any], name: str = "model"
) -> Topology:
    ends = [[output, 0, 0] if isinstance(output, str) else list(output) for output in outputs]
    config = {"name": name, "layers": list(layers), "input_layers": [[each, 0, 0] for each in inputs]}
    return {"class_name": "Functional", "config": {**config, "output_layers": ends}}


def text(topology: Topology) -> str:
    return json.dumps(topology)


def dense(name: str, units: int = 3, **config: Any) -> Topology:
    return layer("Dense", name, units=units, activation="relu", **config)


def keras_like() -> Topology:
    """Frozen layers, normalisation, recurrence, separable convolution and embedding in one Functional model."""
    return functional(
        [
            entry("words", 6),
            entry("image", 9, 9, 3),
            node(layer("Embedding", "embedding", input_dim=11, output_dim=5, input_length=6), ["words"]),
            node(layer("SeparableConv2D", "separable", filters=4, kernel_size=[3, 3], depth_multiplier=2), ["image"]),
            node(layer("LSTM", "lstm", units=4, unit_forget_bias=True, recurrent_activation="sigmoid"), ["embedding"]),
            node(layer("BatchNormalization", "bn", axis=[3]), ["separable"]),
            node(layer("GlobalAveragePooling2D", "pool"), ["bn"]),
            node(dense("frozen", 7, trainable=False), ["lstm"]),
            node(layer("Concatenate", "join", axis=-1), ["frozen", "pool"]),
            node(layer("BatchNormalization", "frozen_bn", trainable=False, scale=False), ["join"]),
            node(dense("head", 2), ["frozen_bn"]),
        ],
        inputs=["words", "image"],
        outputs=["head"],
    )


def every_plain_layer() -> Topology:
    return sequential(
        layer("Conv2D", "conv", filters=4, kernel_size=3, strides=[2, 1], padding="same", dilation_rate=1),
        layer("LeakyReLU", "leaky", alpha=0.1),
        layer("ZeroPadding2D", "pad", padding=[[1, 2], [0, 1]]),
        layer("DepthwiseConv2D", "depthwise", kernel_size=[2, 3], depth_multiplier=2, use_bias=True),
        layer("PReLU", "prelu", shared_axes=[1, 2]),
        layer("MaxPooling2D", "max", pool_size=[2, 2], strides=None, padding="same"),
        layer("Conv2DTranspose", "back", filters=3, kernel_size=[3, 3], strides=[2, 2], padding="valid"),
        layer("UpSampling2D", "up", size=[1, 2]),
        layer("Cropping2D", "crop", cropping=[[1, 0], [2, 2]]),
        layer("LayerNormalization", "ln", axis=[2, 3]),
        layer("AveragePooling2D", "average", pool_size=3),
        layer("ELU", "elu"),
        layer("Permute", "permute", dims=[2, 1, 3]),
        layer("Flatten", "flatten"),
        layer("Dropout", "dropout", rate=0.5),
        layer("GaussianNoise", "noise", stddev=0.1),
        dense("dense", 12, use_bias=False),
        layer("Activation", "hard", activation="hard_sigmoid"),
        layer("Softmax", "softmax", axis=-1),
        layer("RepeatVector", "repeat", n=4),
        layer("SpatialDropout1D", "spatial", rate=0.1),
        layer("Conv1D", "conv1", filters=6, kernel_size=[2], padding="valid", dilation_rate=[2]),
        layer("MaxPooling1D", "max1", pool_size=[2]),
        layer("Reshape", "reshape", target_shape=[2, 3]),
        layer("Masking", "masking", mask_value=0),
        layer("SimpleRNN", "rnn", units=3, return_sequences=True),
        layer("GRU", "gru", units=2, return_sequences=True, reset_after=False),
        layer("TimeDistributed", "times", layer=dense("inner", 5)),
        layer("Bidirectional", "both", layer=layer("LSTM", "lstm", units=2, return_sequences=True)),
        layer("Bidirectional", "sum", merge_mode="sum", layer=layer("GRU", "gru_2", units=3, trainable=False)),
        layer("BatchNormalization", "bn", center=False),
        layer("ThresholdedReLU", "threshold", theta=0.5),
        dense("last", 2),
        shape=[12, 10, 3],
    )


def three_dimensions() -> Topology:
    return sequential(
        layer("Conv3D", "conv", filters=2, kernel_size=[2, 2, 2]),
        layer("MaxPooling3D", "max", pool_size=[2, 1, 1]),
        layer("Conv3DTranspose", "back", filters=2, kernel_size=[2, 3, 1], strides=[1, 2, 1]),
        layer("AveragePooling3D", "average", pool_size=[2, 2, 2]),
        layer("Flatten", "flatten"),
        dense("dense", 2),
        shape=[6, 5, 4, 1],
    )


def channels_first() -> Topology:
    first = {"data_format": "channels_first"}
    return sequential(
        layer("Conv2D", "conv", filters=4, kernel_size=[3, 2], **first),
        layer("BatchNormalization", "bn", axis=1),
        layer("MaxPooling2D", "max", pool_size=[2, 2], **first),
        layer("SeparableConv2D", "separable", filters=5, kernel_size=[2, 2], padding="same", **first),
        layer("GlobalMaxPooling2D", "pool", **first),
        dense("dense", 2),
        shape=[3, 11, 12],
    )


def merges() -> Topology:
    return functional(
        [
            entry("a", 4),
            entry("b", 4),
            node(dense("left", 4), ["a"]),
            node(dense("right", 4), ["b"]),
            node(layer("Add", "add"), ["left", "right"]),
            node(layer("Multiply", "multiply"), ["add", "left"]),
            node(layer("Average", "average"), ["multiply", "right"]),
            node(layer("Maximum", "maximum"), ["average", "add"]),
            node(layer("Minimum", "minimum"), ["maximum", "left"]),
            node(layer("Dot", "dot", axes=1), ["minimum", "right"]),
            node(layer("Concatenate", "concatenate"), ["dot", "minimum"]),
            node(dense("end", 3), ["concatenate"]),
        ],
        inputs=["a", "b"],
        outputs=["end"],
    )


def shared_and_nested() -> Topology:
    """A layer used twice, a model inside used twice, a Sequential inside, and layers that lead nowhere."""
    inside = functional(
        [
            entry("inside_in", 4),
            node(dense("inside_dense", 4), ["inside_in"]),
            node(layer("BatchNormalization", "inside_bn"), ["inside_dense"]),
        ],
        inputs=["inside_in"],
        outputs=["inside_bn"],
        name="inside",
    )
    chain = sequential(dense("chain_1", 5), dense("chain_2", 4, trainable=False), shape=[4], name="chain")
    return functional(
        [
            entry("in", 4),
            node(dense("twice", 4), ["in"], ["twice"]),
            node(dense("nowhere", 9), ["in"]),
            node(inside, [("twice", 1, 0)], ["in"]),
            node(chain, [("inside", 1, 0)]),
            node(layer("Add", "add"), [("chain", 1, 0), ("inside", 2, 0), "twice"]),
            node(dense("end", 1), ["add"]),
        ],
        inputs=["in"],
        outputs=["end", "twice"],
    )


def shared_unevenly() -> Topology:
    """A layer used close to the output and far from it: the farther use decides where it is listed."""
    return functional(
        [
            entry("a", 4),
            entry("b", 4),
            node(dense("before", 4), ["b"]),
            node(dense("shared", 4), ["a"], ["before"]),
            node(dense("long_1", 4), ["shared"]),
            node(dense("long_2", 4), ["long_1"]),
            node(layer("Add", "add"), [("shared", 1, 0), "long_2"]),
        ],
        inputs=["a", "b"],
        outputs=["add"],
    )


def states() -> Topology:
    """A recurrent layer that hands its states on."""
    return functional(
        [
            entry("in", 5, 3),
            node(layer("LSTM", "encoder", units=4, return_state=True), ["in"]),
            node(
                layer("LSTM", "decoder", units=4, return_sequences=True),
                ["in", ("encoder", 0, 1), ("encoder", 0, 2)],
            ),
            node(layer("GlobalAveragePooling1D", "pool"), ["decoder"]),
            node(dense("end", 2), ["pool"]),
        ],
        inputs=["in"],
        outputs=["end"],
    )


def model_in_sequential() -> Topology:
    inside = functional(
        [
            entry("inside_in", None, None, 3),
            node(layer("Conv2D", "inside_conv", filters=2, kernel_size=[3, 3]), ["inside_in"]),
        ],
        inputs=["inside_in"],
        outputs=["inside_conv"],
        name="inside",
    )
    return {
        "class_name": "Sequential",
        "config": {
            "name": "outer",
            "layers": [
                entry("in", 8, 8, 3),
                layer("Rescaling", "rescaling", scale=0.5, offset=-1),
                inside,
                layer("Flatten", "flatten"),
                dense("end", 2),
            ],
        },
    }


def wired_at_random(seed: int) -> Topology:
    """A Functional model whose layers are wired, shared, frozen and listed at random."""
    dice = random.Random(seed)
    outputs: list[tuple[str, int, int]] = [("in_0", 0, 0), ("in_1", 0, 0)]
    layers = [entry("in_0", 4), entry("in_1", 4)]
    for index in range(dice.randint(3, 12)):
        kind = dice.choice(["Dense", "Dense", "BatchNormalization", "Add"])
        config = {"units": 4} if kind == "Dense" else {}
        described = layer(kind, f"layer_{index}", **config)
        described["config"]["trainable"] = dice.random() < 0.7
        several = kind == "Add"
        calls = [
            dice.sample(outputs, 2) if several else [dice.choice(outputs)]
            for _ in range(1 if several else dice.choice([1, 1, 2]))
        ]
        layers.append(node(described, *calls))
        outputs += [(f"layer_{index}", call, 0) for call in range(len(calls))]
    ends = dice.sample(outputs[2:], dice.randint(1, 2))
    inside = layers[2:]
    if dice.random() < 0.5:
        dice.shuffle(inside)
    return functional(layers[:2] + inside, inputs=["in_0", "in_1"], outputs=ends)


NAMED = {
    topology.__name__: topology
    for topology in (
        keras_like,
        every_plain_layer,
        three_dimensions,
        channels_first,
        merges,
        shared_and_nested,
        shared_unevenly,
        states,
        model_in_sequential,
    )
}
