"""Which store the settings lead to, and what is said while it cannot be used."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from blobstore.directory import DirectoryBlobStore
from blobstore.object_storage import ObjectBlobStore
from blobstore.opening import open_store
from blobstore.settings import BlobSettings
from tests.s3_process import BUCKET, S3Process


def in_bucket(server: S3Process, bucket: str = BUCKET) -> BlobSettings:
    return BlobSettings(
        blob_url=f"s3://{bucket}/opening",
        s3_endpoint=server.endpoint,
        s3_access_key_id="key",
        s3_secret_access_key=SecretStr("secret"),
    )


async def test_without_an_address_blobs_are_kept_in_the_directory(tmp_path: Path) -> None:
    async with open_store(BlobSettings(data_dir=tmp_path, durability="always")) as store:
        assert isinstance(store, DirectoryBlobStore)
        await store.write("a", [b"x"])
    assert (tmp_path / "a").read_bytes() == b"x"


async def test_a_directory_that_cannot_be_used_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(SystemExit, match=r"^Cannot keep blobs in .*/data\. Make it a directory that can be written"):
        async with open_store(BlobSettings(data_dir=tmp_path / "data")):
            pass


async def test_with_an_address_blobs_are_kept_there_and_nothing_on_the_disk(
    s3_server: S3Process, tmp_path: Path
) -> None:
    settings = in_bucket(s3_server).model_copy(update={"data_dir": tmp_path / "data"})
    async with open_store(settings) as store:
        await store.write("a", [b"x"])
    assert not (tmp_path / "data").exists()
    async with ObjectBlobStore(
        BUCKET, endpoint=s3_server.endpoint, access_key_id="key", secret_access_key="secret"
    ) as whole_bucket:
        assert await whole_bucket.read("opening/a") == b"x"


async def test_object_storage_is_waited_for_and_the_log_says_why(own_s3: S3Process) -> None:
    own_s3.kill()
    opened = asyncio.Event()

    async def use() -> None:
        async with open_store(in_bucket(own_s3, "later"), look_again_s=0.01):
            opened.set()

    async def said(sentence: str) -> None:
        while not any(entry["because"].startswith(sentence) for entry in log):
            await asyncio.sleep(0.01)

    with structlog.testing.capture_logs() as log:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            using = group.create_task(use())
            await said("The state of the rounds cannot be reached")
            await asyncio.to_thread(own_s3.start)
            await said("The object storage has no bucket later. Create it, or correct DISCO_BLOB_URL.")
            own_s3.add_bucket("later")
            await using
    assert opened.is_set()
    assert {(entry["event"], entry["log_level"], entry["blob_url"]) for entry in log} == {
        ("blobstore.waiting", "warning", "s3://later/opening")
    }
    assert "secret" not in str(log)


async def test_a_missing_library_ends_the_process_with_a_sentence(
    s3_server: S3Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "blobstore.object_storage")
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(SystemExit, match=r"^DISCO_BLOB_URL needs the package obstore: install .* with the extra s3\.$"):
        async with open_store(in_bucket(s3_server)):
            pass
