"""A TF.js model at a URL: `model.json`, and the shards beside it, as `tf.loadLayersModel(url)` would find them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.task_sources.fetching import Fetcher, NotFetchedError
from gateway.task_sources.given_digest import GivenDigest
from gateway.task_sources.model_files import MAX_MODEL_FILE_BYTES, MODEL_FILE, ModelFiles
from gateway.task_sources.written_files import not_written
from learning.refusals import InvalidTask

FIELD = "trainingInformation.modelURL"


async def fetch_model(
    fetcher: Fetcher, url: str, directory: Path, *, limit_bytes: int, digest: GivenDigest | None = None
) -> ModelFiles:
    """Fetches the model into an empty directory. Raises InvalidTask, InvalidModel, DigestMismatch, TooLarge."""
    try:
        async with asyncio.timeout(fetcher.total_s):
            await _fetch(fetcher, url, directory / MODEL_FILE, limit_bytes=MAX_MODEL_FILE_BYTES)
            model = await asyncio.to_thread(ModelFiles, directory, limit_bytes=limit_bytes)
            for paths, size in model.stored_sizes():
                for path in paths:
                    size -= await _fetch(fetcher, _beside(url, path), directory / path, limit_bytes=size)
    except TimeoutError:
        raise InvalidTask(field=FIELD, problem=f"{url} takes more than {fetcher.total_s:g} seconds") from None
    except OSError as error:
        raise not_written(error) from error
    await asyncio.to_thread(model.check, digest)
    return model


async def _fetch(fetcher: Fetcher, url: str, path: Path, *, limit_bytes: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return await fetcher.fetch(url, path, limit_bytes=limit_bytes)
    except NotFetchedError as error:
        raise InvalidTask(field=FIELD, problem=f"{url[:500]} {error}") from None


def _beside(url: str, path: str) -> str:
    """The URL of a shard; what follows the question mark (a signature, perhaps) goes with it, as TF.js does it."""
    before, mark, query = url.partition("?")
    return f"{before[: before.rfind('/') + 1]}{path}{mark}{query}"
