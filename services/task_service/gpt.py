"""The GPT of the Disco clients: its configuration, and the tensors that follow from it (protocol section 6.2).

Knows no training: the clients build and train the model from the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.task_service.initializers import GLOROT_NORMAL, ONES, ZEROS
from services.task_service.topology.document import Config, parse
from services.task_service.topology.layer import Weight

_SIZES = {
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gpt-mini": (6, 6, 192),
    "gpt-micro": (4, 4, 128),
    "gpt-nano": (3, 3, 48),
}
"""Layers, heads and width that the clients put in the place of nLayer, nHead and nEmbd, by model type."""

NANO: Mapping[str, Any] = {
    "name": "transformer",
    "lr": 0.001,
    "weightDecay": 0,
    "maxIter": 10,
    "verbose": 0,
    "modelType": "gpt-nano",
    "evaluate": True,
    "maxEvalBatches": 12,
    "evaluateEvery": 100,
    "blockSize": 128,
    "vocabSize": 50258,
    "bias": True,
    "debug": False,
    "dropout": 0.2,
    "residDrop": 0.2,
    "embdDrop": 0.2,
    "tokEmb": True,
    "lmHead": True,
    "nLayer": 3,
    "nHead": 3,
    "nEmbd": 48,
}
"""The smallest one: 4 915 824 weights."""


def weights_of_gpt(config_json: str) -> tuple[Weight, ...]:
    """The weights of the GPT that a client builds from this configuration. Raises InvalidModel."""
    config = parse(config_json, "the GPT configuration")
    layers, heads, width = _size(config)
    if width % heads:
        raise config.refusal(f"{heads} heads do not divide a width of {width}")
    return tuple(_weights(config, layers=layers, width=width))


def _size(config: Config) -> tuple[int, int, int]:
    if config.has("model_type"):
        model_type = config.text("model_type")
        if model_type not in _SIZES:
            raise config.refusal(f"modelType must be one of {', '.join(_SIZES)}")
        return _SIZES[model_type]
    return _whole(config, "n_layer"), _whole(config, "n_head"), _whole(config, "n_embd")


def _whole(config: Config, key: str) -> int:
    value = config.whole(key)
    if value > 1 << 20:
        raise config.refusal(f"{key} must be at most 2^20")
    return value


def _weights(config: Config, *, layers: int, width: int) -> Iterator[Weight]:
    vocabulary = _whole(config, "vocab_size")
    yield Weight("transformer/wte", (vocabulary, width), ZEROS)
    yield Weight("transformer/wpe", (_whole(config, "block_size"), width), ZEROS)
    if layers > 512:
        raise config.refusal("nLayer must be at most 512")
    for block in range(layers):
        name = f"transformer/h/{block}"
        yield from _normalization(f"{name}/ln_1", width)
        yield from _dense(f"{name}/attn/c_attn", width, 3 * width, bias=config.flag("bias", True))
        yield from _dense(f"{name}/attn/c_proj", width, width, bias=config.flag("bias", True))
        yield from _normalization(f"{name}/ln_2", width)
        yield from _dense(f"{name}/mlp/c_fc", width, 4 * width, bias=True)
        yield from _dense(f"{name}/mlp/c_proj", 4 * width, width, bias=True)
    yield from _normalization("transformer/ln_f", width)
    yield from _dense("transformer/lm_head", width, vocabulary, bias=False)


def _normalization(name: str, width: int) -> Iterator[Weight]:
    yield Weight(f"{name}/gamma", (width,), ONES)
    yield Weight(f"{name}/beta", (width,), ZEROS)


def _dense(name: str, inputs: int, outputs: int, *, bias: bool) -> Iterator[Weight]:
    yield Weight(f"{name}/kernel", (inputs, outputs), GLOROT_NORMAL)
    if bias:
        yield Weight(f"{name}/bias", (outputs,), ZEROS)
