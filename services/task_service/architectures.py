"""The models of the default tasks, as TF.js topologies (protocol section 6.2). No weights: those are initialized.

Layers are written with what differs from TF.js' defaults, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

GLOROT_UNIFORM: Mapping[str, Any] = {"class_name": "GlorotUniform", "config": {}}
LECUN_NORMAL: Mapping[str, Any] = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1, "mode": "fan_in", "distribution": "normal"},
}

Layer = dict[str, Any]


def layer(class_name: str, name: str, **config: object) -> Layer:
    """One layer of a topology."""
    return {"class_name": class_name, "config": {"name": name, **config}}


def sequential(name: str, layers: Sequence[Layer], *, input_shape: Sequence[int]) -> dict[str, Any]:
    """A Sequential model; its first layer says what goes in."""
    first = {
        **layers[0],
        "config": {**layers[0]["config"], "batch_input_shape": [None, *input_shape], "dtype": "float32"},
    }
    return {"class_name": "Sequential", "config": {"name": name, "layers": [first, *layers[1:]]}}


class Chain:
    """A Functional model, layer after layer; each follows the one before it where nothing else is said."""

    def __init__(self, name: str, *, input_name: str, input_shape: Sequence[int | None], frozen: bool = False) -> None:
        self._name = name
        self._frozen = frozen
        shape = {"batch_input_shape": [None, *input_shape], "dtype": "float32", "sparse": False}
        self._layers = [{**layer("InputLayer", input_name, **shape), "name": input_name, "inbound_nodes": []}]

    @property
    def last(self) -> str:
        """Name of the layer written last."""
        return str(self._layers[-1]["name"])

    def add(self, class_name: str, name: str, *, after: Sequence[str] = (), **config: object) -> None:
        sources = [[source, 0, 0, {}] for source in (after or [self.last])]
        if self._frozen:
            config.setdefault("trainable", False)
        self._layers.append({**layer(class_name, name, **config), "name": name, "inbound_nodes": [sources]})

    def model(self) -> dict[str, Any]:
        ends = {"input_layers": [[self._layers[0]["name"], 0, 0]], "output_layers": [[self.last, 0, 0]]}
        return {"class_name": "Model", "config": {"name": self._name, "layers": self._layers, **ends}}


def topology_json(model: Mapping[str, Any]) -> str:
    """The document that clients load."""
    return msgspec.json.encode({**model, "keras_version": "tfjs-layers 4.22.0", "backend": "tensor_flow.js"}).decode()


def titanic() -> dict[str, Any]:
    return sequential(
        "sequential_1",
        [
            layer("Dense", "dense_Dense1", units=124, activation="relu", kernel_initializer=LECUN_NORMAL),
            layer("Dense", "dense_Dense2", units=64, activation="relu"),
            layer("Dense", "dense_Dense3", units=32, activation="relu"),
            layer("Dense", "dense_Dense4", units=1, activation="sigmoid"),
        ],
        input_shape=[5],
    )


def mnist() -> dict[str, Any]:
    return sequential(
        "sequential_1",
        [
            layer("Conv2D", "conv2d_Conv2D1", filters=8, kernel_size=[5, 5], activation="relu"),
            layer("Conv2D", "conv2d_Conv2D2", filters=16, kernel_size=[5, 5], activation="relu"),
            layer("MaxPooling2D", "max_pooling2d_MaxPooling2D1", pool_size=[2, 2], strides=[2, 2]),
            layer("Dropout", "dropout_Dropout1", rate=0.25),
            layer("Flatten", "flatten_Flatten1"),
            layer("Dense", "dense_Dense1", units=32, activation="relu"),
            layer("Dropout", "dropout_Dropout2", rate=0.25),
            layer("Dense", "dense_Dense2", units=10, activation="softmax"),
        ],
        input_shape=[28, 28, 3],
    )


def lus_covid() -> dict[str, Any]:
    convolution = {"kernel_size": [5, 5], "activation": "relu", "kernel_initializer": LECUN_NORMAL}
    pooling = {"pool_size": [2, 2], "strides": [2, 2]}
    return sequential(
        "sequential_1",
        [
            layer("Conv2D", "conv2d_Conv2D1", filters=8, **convolution),
            layer("MaxPooling2D", "max_pooling2d_MaxPooling2D1", **pooling),
            layer("Conv2D", "conv2d_Conv2D2", filters=16, **convolution),
            layer("MaxPooling2D", "max_pooling2d_MaxPooling2D2", **pooling),
            layer("Flatten", "flatten_Flatten1"),
            layer("Dense", "dense_Dense1", units=2, activation="softmax", kernel_initializer=LECUN_NORMAL),
        ],
        input_shape=[100, 100, 3],
    )


def digits() -> dict[str, Any]:
    return sequential(
        "digits",
        [
            layer("Dense", "hidden", units=32, activation="relu", kernel_initializer=GLOROT_UNIFORM),
            layer("Dense", "output", units=10, activation="softmax", kernel_initializer=GLOROT_UNIFORM),
        ],
        input_shape=[64],
    )


def cifar10() -> dict[str, Any]:
    chain = _mobilenet_v1("modelModified", frozen=False)
    chain.add("Dense", "denseModified", units=10, activation="softmax")
    return chain.model()


def geotags() -> dict[str, Any]:
    """A frozen MobileNet v1 under a trainable last layer, behind a layer that maps 0…255 to -1…1."""
    chain = _mobilenet_v1("geotags_base", frozen=True)
    chain.add("Dense", "predictions", units=140, activation="softmax", trainable=True)
    return {
        "class_name": "Sequential",
        "config": {
            "name": "sequential_1",
            "layers": [
                layer("InputLayer", "input1", batch_input_shape=[None, 224, 224, 3], dtype="float32", sparse=False),
                layer("Rescaling", "rescaling_Rescaling1", scale=1 / 127.5, offset=-1),
                chain.model(),
            ],
        },
    }


def _mobilenet_v1(name: str, *, frozen: bool) -> Chain:
    """MobileNet v1 with a quarter of its filters, up to the pooled features."""
    chain = Chain(name, input_name="input_1", input_shape=[224, 224, 3], frozen=frozen)
    plain: dict[str, Any] = {"padding": "same", "use_bias": False}

    def normalized(name: str) -> None:
        chain.add("BatchNormalization", f"{name}_bn", momentum=0.99, epsilon=0.001)
        chain.add("Activation", f"{name}_relu", activation="relu6")

    chain.add(
        "Conv2D", "conv1", filters=8, kernel_size=[3, 3], strides=[2, 2], kernel_initializer=GLOROT_UNIFORM, **plain
    )
    normalized("conv1")
    for block, filters in enumerate([16, 32, 32, 64, 64, *[128] * 6, 256, 256], start=1):
        stride = 2 if block in (2, 4, 6, 12) else 1
        chain.add(
            "DepthwiseConv2D",
            f"conv_dw_{block}",
            kernel_size=[3, 3],
            strides=[stride, stride],
            depthwise_initializer=GLOROT_UNIFORM,
            **plain,
        )
        normalized(f"conv_dw_{block}")
        chain.add(
            "Conv2D",
            f"conv_pw_{block}",
            filters=filters,
            kernel_size=[1, 1],
            kernel_initializer=GLOROT_UNIFORM,
            **plain,
        )
        normalized(f"conv_pw_{block}")
    chain.add("GlobalAveragePooling2D", "global_average_pooling2d_1")
    return chain


def simple_face() -> dict[str, Any]:
    """MobileNet v2 with 0.35 of its filters, and two dense layers, for images of any size."""
    chain = Chain("model", input_name="input_1", input_shape=[None, None, 3])
    _convolution(chain, "Conv1", "bn_Conv1", filters=16, size=3, stride=2)
    chain.add("ReLU", "Conv1_relu", max_value=6)
    _inverted_residual(chain, "expanded_conv", width=16, expanded=0, filters=8, stride=1)
    width = 8
    for block, filters in enumerate([8, 8, *[16] * 3, *[24] * 4, *[32] * 3, *[56] * 3, 112], start=1):
        stride = 2 if block in (1, 3, 6, 13) else 1
        _inverted_residual(chain, f"block_{block}", width=width, expanded=6 * width, filters=filters, stride=stride)
        width = filters
    _convolution(chain, "Conv_1", "Conv_1_bn", filters=1280, size=1, stride=1)
    chain.add("ReLU", "out_relu", max_value=6)
    chain.add("GlobalAveragePooling2D", "global_average_pooling2d")
    chain.add("Dense", "dense", units=1024, activation="relu", kernel_initializer=GLOROT_UNIFORM)
    chain.add("Dense", "dense_1", units=2, activation="softmax", kernel_initializer=GLOROT_UNIFORM)
    return chain.model()


def _convolution(chain: Chain, name: str, normalization: str, *, filters: int, size: int, stride: int) -> None:
    chain.add(
        "Conv2D",
        name,
        filters=filters,
        kernel_size=[size, size],
        strides=[stride, stride],
        padding="same",
        use_bias=False,
        kernel_initializer=GLOROT_UNIFORM,
    )
    chain.add("BatchNormalization", normalization, momentum=0.999, epsilon=0.001)


def _inverted_residual(chain: Chain, name: str, *, width: int, expanded: int, filters: int, stride: int) -> None:
    """Widens to `expanded` (not at all for 0), convolves each channel by itself, narrows to `filters`."""
    start = chain.last
    if expanded:
        _convolution(chain, f"{name}_expand", f"{name}_expand_BN", filters=expanded, size=1, stride=1)
        chain.add("ReLU", f"{name}_expand_relu", max_value=6)
    if stride == 2:
        chain.add("ZeroPadding2D", f"{name}_pad", padding=[[0, 1], [0, 1]])
    chain.add(
        "DepthwiseConv2D",
        f"{name}_depthwise",
        kernel_size=[3, 3],
        strides=[stride, stride],
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        depthwise_initializer=GLOROT_UNIFORM,
    )
    chain.add("BatchNormalization", f"{name}_depthwise_BN", momentum=0.999, epsilon=0.001)
    chain.add("ReLU", f"{name}_depthwise_relu", max_value=6)
    _convolution(chain, f"{name}_project", f"{name}_project_BN", filters=filters, size=1, stride=1)
    if stride == 1 and width == filters:
        chain.add("Add", f"{name}_add", after=[start, chain.last])
