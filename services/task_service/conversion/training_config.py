"""What a Keras model was compiled with, in the words of TF.js; nothing where TF.js has no word for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_OPTIMIZERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "SGD": ("SGD", {}),
    "Adam": ("Adam", {"beta_1": "beta_1", "beta_2": "beta_2", "epsilon": "epsilon"}),
    "Adamax": ("Adamax", {"beta_1": "beta_1", "beta_2": "beta_2", "epsilon": "epsilon"}),
    "RMSprop": ("RMSProp", {"rho": "decay", "momentum": "momentum", "epsilon": "epsilon", "centered": "centered"}),
    "Adagrad": ("Adagrad", {}),
    "Adadelta": ("Adadelta", {"rho": "rho", "epsilon": "epsilon"}),
}
_LOSSES = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    **{
        name: name
        for name in (
            *("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error"),
            *("mean_squared_logarithmic_error", "squared_hinge", "hinge", "categorical_hinge", "logcosh"),
            *("categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy"),
            *("kullback_leibler_divergence", "poisson", "cosine_proximity"),
        )
    },
}


def training_config_of(compiled: Any, note: Callable[[str], None]) -> str:
    """From `compile_config` of a `.keras`, or `training_config` of a `.h5`; "" where the task has to say it."""
    if not isinstance(compiled, dict):
        return ""
    loss = _loss(compiled.get("loss"))
    optimizer = _optimizer(compiled.get("optimizer_config", compiled.get("optimizer")))
    if loss is None or optimizer is None:
        note("What it was compiled with has no counterpart in TF.js, or is not in the file; the task's settings apply.")
        return ""
    metrics = ["accuracy"] if "acc" in str(compiled.get("metrics")) else []
    return msgspec.json.encode({"loss": loss, "metrics": metrics, "optimizer_config": optimizer}).decode()


def _loss(loss: Any) -> str | None:
    if isinstance(loss, dict):
        config = loss.get("config")
        if not isinstance(config, dict) or config.get("from_logits"):
            return None
        loss = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(loss.get("class_name"))).lower()
    return _LOSSES.get(loss) if isinstance(loss, str) else None


def _optimizer(optimizer: Any) -> dict[str, Any] | None:
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("config"), dict):
        return None
    config = optimizer["config"]
    known = _OPTIMIZERS.get(str(optimizer.get("class_name")).removeprefix("Custom>"))
    rate = config.get("learning_rate")
    if known is None or isinstance(rate, bool) or not isinstance(rate, int | float):
        return None
    class_name, keys = known
    if class_name == "SGD" and config.get("momentum"):
        momentum = {"momentum": config["momentum"], "use_nesterov": bool(config.get("nesterov"))}
        return {"class_name": "Momentum", "config": {"learning_rate": rate, **momentum}}
    kept = {name: config[key] for key, name in keys.items() if isinstance(config.get(key), int | float)}
    return {"class_name": class_name, "config": {"learning_rate": rate, **kept}}
