"""Reads a model from wherever a program has it, so that a task can begin with it.

What runs here is a program of the operator's own, so files are taken from any path;
what they say is checked like a stranger's. Knows no task and no store.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from disco.task.v1.task_pb2 import Model as ModelMessage

from disco_server.task_provider import KerasModel, ModelSource
from gateway.dialects.model_uploads import PushedModel, parse_model_body
from gateway.task_sources.fetched_models import fetch_model
from gateway.task_sources.fetching import Fetcher
from gateway.task_sources.given_digest import GivenDigest
from gateway.task_sources.model_files import MODEL_FILE, ModelFiles
from learning.refusals import InvalidModel, TooLarge


class ModelReader:
    """`limit_bytes` bounds the weights of one model."""

    def __init__(self, fetcher: Fetcher, *, limit_bytes: int) -> None:
        self._fetcher = fetcher
        self._limit = limit_bytes

    async def read(self, source: ModelSource, *, digest: GivenDigest | None = None) -> PushedModel:
        """The model with its weights. Raises InvalidModel, InvalidTask, DigestMismatch, TooLarge.

        `digest` is that of the weight files of TF.js; of what has none, that of the weights as they are kept.
        """
        match source:
            case str() if source.startswith(("http://", "https://")):
                return await self._fetched(source, digest)
            case str() | os.PathLike():
                return await self._at(Path(source), digest)
            case bytes():
                return await _checked(await asyncio.to_thread(parse_model_body, source), digest)
            case Mapping():
                return await _checked(await asyncio.to_thread(_artifacts, source), digest)
            case KerasModel():
                return await _checked(await self._keras(source), digest)
            case _:
                raise InvalidModel(problem=f"a {type(source).__name__} is no model, path, URL or TF.js artifact")

    async def _fetched(self, url: str, digest: GivenDigest | None) -> PushedModel:
        with tempfile.TemporaryDirectory(prefix="disco-") as directory:
            model = await fetch_model(self._fetcher, url, Path(directory), limit_bytes=self._limit, digest=digest)
            return await asyncio.to_thread(_whole, model)

    async def _at(self, path: Path, digest: GivenDigest | None) -> PushedModel:
        if await asyncio.to_thread((path / MODEL_FILE).is_file):
            path = path / MODEL_FILE
        if not await asyncio.to_thread(path.exists):
            raise InvalidModel(problem=f"there is no {path}")
        if path.suffix == ".json":
            return await asyncio.to_thread(self._layers, path, digest)
        return await _checked(await self._converted(path), digest)

    def _layers(self, path: Path, digest: GivenDigest | None) -> PushedModel:
        model = ModelFiles(path.parent, file=path.name, limit_bytes=self._limit)
        model.check(digest)
        return _whole(model)

    async def _keras(self, model: KerasModel) -> PushedModel:
        is_keras_2 = type(model).__module__.partition(".")[0] == "tf_keras"
        with tempfile.TemporaryDirectory(prefix="disco-") as directory:
            path = Path(directory) / ("model.h5" if is_keras_2 else "model.keras")
            await asyncio.to_thread(model.save, str(path))
            return await self._converted(path)

    async def _converted(self, path: Path) -> PushedModel:
        """A model of Keras, read in a process of its own."""
        # Here, because most programs have no such model, and what reads one is an extra.
        from services.task_service.conversion.converting import convert_model

        async with convert_model(path) as converted:
            weights = await asyncio.to_thread(converted.weights.read_bytes) if converted.weights else b""
        if len(weights) > self._limit:
            raise TooLarge(limit_bytes=self._limit)
        kept = converted.model
        return PushedModel(
            kind=ModelMessage.KIND_GPT if kept.kind == "gpt" else ModelMessage.KIND_TFJS,
            topology_json=kept.topology_json.encode(),
            training_config_json=kept.training_config_json.encode(),
            weight_specs=tuple((spec.name, tuple(spec.shape)) for spec in kept.weight_specs),
            weights=weights,
        )


async def _checked(model: PushedModel, digest: GivenDigest | None) -> PushedModel:
    """The model, if its weights are those that were announced. Raises DigestMismatch."""
    if digest is not None:
        await asyncio.to_thread(digest.check, [model.weights])
    return model


def _whole(model: ModelFiles) -> PushedModel:
    return replace(model.description, weights=b"".join(model.chunks()))


def _artifacts(artifacts: Mapping[str, Any]) -> PushedModel:
    """TF.js' own names; weights as any object that has bytes, in one piece or in several."""
    data = artifacts.get("weightData")
    pieces = [] if data is None else data if isinstance(data, (list, tuple)) else [data]
    packed = msgspec.msgpack.encode(
        {
            "modelTopology": artifacts.get("modelTopology"),
            "weightSpecs": artifacts.get("weightSpecs"),
            "trainingConfig": artifacts.get("trainingConfig"),
            "weightData": b"".join(memoryview(piece).cast("B") for piece in pieces) if pieces else None,
        }
    )
    return parse_model_body(packed)
