"""The configuration of each layer class, from the words of Keras 2 and 3 to those of TF.js.

What TF.js knows is kept, what means nothing there is dropped, and what would change the
answers of the model is refused by name: nothing is changed in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from learning.refusals import InvalidModel

_ANY: Final = object()


def _of(*tensors: str) -> tuple[str, ...]:
    return tuple(f"{tensor}_{kind}" for tensor in tensors for kind in ("initializer", "regularizer", "constraint"))


ALWAYS = ("name", "trainable", "dtype", "batch_input_shape")
_DENSE = ("units", "activation", "use_bias", *_of("kernel", "bias"))
_CONVOLUTION = (
    *("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "activation", "use_bias"),
    *_of("kernel", "bias"),
)
_TRANSPOSED = tuple(key for key in _CONVOLUTION if key != "dilation_rate")
_DEPTHWISE = (
    *("kernel_size", "strides", "padding", "data_format", "depth_multiplier", "activation", "use_bias"),
    *_of("depthwise", "bias"),
)
_RECURRENT = (
    *("units", "activation", "use_bias", "dropout", "recurrent_dropout", "return_sequences", "return_state"),
    *("go_backwards", "stateful", "unroll"),
    *_of("kernel", "recurrent", "bias"),
)
_POOLING = ("pool_size", "strides", "padding", "data_format")
_SCALED = ("axis", "epsilon", "center", "scale", *_of("gamma", "beta"))

KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    "InputLayer": (),
    "Dense": _DENSE,
    "Activation": ("activation",),
    "Dropout": ("rate", "noise_shape"),
    "SpatialDropout1D": ("rate",),
    "GaussianNoise": ("stddev",),
    "GaussianDropout": ("rate",),
    "AlphaDropout": ("rate", "noise_shape"),
    "Flatten": ("data_format",),
    "Reshape": ("target_shape",),
    "Permute": ("dims",),
    "RepeatVector": ("n",),
    "Masking": ("mask_value",),
    "Rescaling": ("scale", "offset"),
    "Embedding": (
        *("input_dim", "output_dim", "mask_zero", "input_length"),
        *_of("embeddings"),
    ),
    "ReLU": ("max_value",),
    "LeakyReLU": ("alpha",),
    "ELU": ("alpha",),
    "ThresholdedReLU": ("theta",),
    "PReLU": ("shared_axes", *_of("alpha")),
    "Softmax": ("axis",),
    "BatchNormalization": (
        *_SCALED,
        *("momentum", "moving_mean_initializer", "moving_variance_initializer"),
    ),
    "LayerNormalization": _SCALED,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _CONVOLUTION),
    **dict.fromkeys(("Conv2DTranspose", "Conv3DTranspose"), _TRANSPOSED),
    "SeparableConv2D": (
        *(key for key in _CONVOLUTION if not key.startswith("kernel_") or key == "kernel_size"),
        *("depth_multiplier", *_of("depthwise", "pointwise")),
    ),
    "DepthwiseConv2D": _DEPTHWISE,
    **{f"{kind}Pooling{rank}D": _POOLING for kind in ("Max", "Average") for rank in (1, 2, 3)},
    **{f"Global{kind}Pooling{rank}D": ("data_format",) for kind in ("Max", "Average") for rank in (1, 2)},
    "UpSampling2D": ("size", "data_format", "interpolation"),
    "ZeroPadding2D": ("padding", "data_format"),
    "Cropping2D": ("cropping", "data_format"),
    "SimpleRNN": _RECURRENT,
    "LSTM": (*_RECURRENT, "recurrent_activation", "unit_forget_bias"),
    "GRU": (*_RECURRENT, "recurrent_activation", "reset_after"),
    "Bidirectional": ("layer", "merge_mode"),
    "TimeDistributed": ("layer",),
    **dict.fromkeys(("Add", "Multiply", "Average", "Maximum", "Minimum"), ()),
    "Concatenate": ("axis",),
    "Dot": ("axes", "normalize"),
}
"""Every layer class that is read, with what TF.js knows of its configuration beyond what all layers have."""

_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    **dict.fromkeys(("seed", "implementation", "autocast", "fused", "renorm_momentum", "build_input_shape"), (_ANY,)),
    **dict.fromkeys(("backward_layer", "zero_output_for_mask"), (_ANY,)),  # looked at where they are written
    **dict.fromkeys(("activity_regularizer", "virtual_batch_size", "renorm_clipping", "output_padding"), (None,)),
    **dict.fromkeys(("quantization_config", "lora_rank", "lora_alpha", "adjustment", "sharding"), (None,)),
    **dict.fromkeys(("sparse", "ragged", "optional", "synchronized", "renorm", "keepdims", "rms_scaling"), (False,)),
    **dict.fromkeys(("time_major", "pass_through"), (False,)),
    "groups": (1,),
    "negative_slope": (0,),
    "threshold": (0,),
    "dilation_rate": (1, [1], [1, 1], [1, 1, 1]),
    **dict.fromkeys(_of("kernel"), (_ANY,)),  # of convolutions that have no such tensor
    "filters": (None,),
}
"""What may be dropped where TF.js does not know it, because it then means nothing."""

_INITIALIZERS = {
    "LecunNormal": "LeCunNormal",
    "LecunUniform": "LeCunUniform",
    "OrthogonalInitializer": "Orthogonal",
    "IdentityInitializer": "Identity",
}
_KNOWN_INITIALIZERS = (
    *("Zeros", "Ones", "Constant", "RandomUniform", "RandomNormal", "TruncatedNormal", "VarianceScaling", "Orthogonal"),
    *("Identity", "GlorotUniform", "GlorotNormal", "HeUniform", "HeNormal", "LeCunNormal", "LeCunUniform"),
)
_INITIALIZER_KEYS = ("value", "minval", "maxval", "mean", "stddev", "scale", "mode", "distribution", "gain")
_CONSTRAINTS = ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm")
_CONSTRAINT_KEYS = ("max_value", "min_value", "rate", "axis")


def rewritten(class_name: str, config: Mapping[str, Any], where: str, *, keras_3: bool) -> dict[str, Any]:
    """The configuration without the layers that it may hold inside. Raises InvalidModel."""
    kept: dict[str, Any] = {}
    for key, value in _renamed(class_name, config).items():
        if key in ALWAYS or key in KEPT[class_name]:
            kept[key] = _value(key, value, where, keras_3=keras_3)
        elif not _means_nothing(key, value):
            raise InvalidModel(problem=f"{where}: TF.js has nothing like {key[:64]} = {str(value)[:64]}")
    return kept


def _renamed(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    names = {"batch_shape": "batch_input_shape"}
    if class_name == "LeakyReLU":
        names["negative_slope"] = "alpha"
    return {names.get(key, key): value for key, value in config.items()}


def _means_nothing(key: str, value: object) -> bool:
    return any(each is _ANY or each == value for each in _NEUTRAL.get(key, ()))


def _value(key: str, value: Any, where: str, *, keras_3: bool) -> Any:
    if key == "dtype":
        return dtype_of(value, where)
    if key.endswith("_initializer"):
        return _initializer(value)
    if key.endswith("_regularizer"):
        return _regularizer(value, f"{where}: {key}")
    if key.endswith("_constraint"):
        return _constraint(value, f"{where}: {key}")
    if key in ("activation", "recurrent_activation"):
        return _activation(value, f"{where}: {key}", keras_3=keras_3)
    if key == "axis" and isinstance(value, list) and len(value) == 1:
        return value[0]
    return value


def dtype_of(value: Any, where: str) -> str:
    """A type, or the name of a policy. Mixed precision computes in float16 and keeps its weights in float32."""
    if isinstance(value, dict):
        inner = value.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        if value.get("class_name") not in ("DTypePolicy", "Policy"):
            raise InvalidModel(
                problem=f"{where}: the precision {str(value.get('class_name'))[:64]} is unknown to TF.js"
            )
    else:
        name = value
    if name is None:
        return "float32"
    return "float32" if str(name).startswith("mixed_") else str(name)


def _initializer(value: Any) -> Any:
    """An initializer that TF.js does not know makes way for its default: the weights are in the file anyway."""
    if not isinstance(value, dict):
        return value if isinstance(value, str) else None
    class_name = str(value.get("class_name"))
    class_name = _INITIALIZERS.get(class_name, class_name)
    config = value.get("config")
    if class_name not in _KNOWN_INITIALIZERS or not isinstance(config, dict):
        return None
    return {
        "class_name": class_name,
        "config": {key: config[key] for key in _INITIALIZER_KEYS if isinstance(config.get(key), int | float | str)},
    }


def _regularizer(value: Any, where: str) -> Any:
    if value is None:
        return None
    config = value.get("config") if isinstance(value, dict) else None
    if not isinstance(config, dict) or value.get("class_name") not in ("L1", "L2", "L1L2"):
        raise InvalidModel(problem=f"{where}: the regularizers of TF.js are L1, L2 and L1L2")
    return {"class_name": "L1L2", "config": {key: _number(config.get(key), where) for key in ("l1", "l2")}}


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise InvalidModel(problem=f"{where}: not a number")
    return float(value or 0)


def _constraint(value: Any, where: str) -> Any:
    if value is None:
        return None
    config = value.get("config") if isinstance(value, dict) else None
    if not isinstance(config, dict) or value.get("class_name") not in _CONSTRAINTS:
        raise InvalidModel(problem=f"{where}: the constraints of TF.js are {', '.join(_CONSTRAINTS)}")
    return {
        "class_name": value["class_name"],
        "config": {key: config[key] for key in _CONSTRAINT_KEYS if key in config},
    }


def _activation(value: Any, where: str, *, keras_3: bool) -> Any:
    if value is None:
        return "linear"
    if not isinstance(value, str):
        raise InvalidModel(problem=f"{where} is a custom object, which is program code; use the name of an activation")
    if value == "hard_sigmoid" and keras_3:
        raise InvalidModel(problem=f"{where}: the hard_sigmoid of Keras 3 is another function than that of TF.js")
    return {"silu": "swish", "hard_silu": "hard_swish"}.get(value, value)
