"""The object storage passes the suite against a real server, and stands what networks and servers do.

The server is moto: what it shows is that requests, conditions, pages and signatures are
as S3 describes them. It shows nothing of how consistent, durable or fast another server is.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from blobstore.object_storage import (
    MULTIPART_BYTES,
    PART_BYTES,
    PARTS_AT_ONCE,
    STAGED_PART_BYTES,
    ObjectBlobStore,
    StorageMisconfigured,
)
from blobstore.store import BlobExists, BlobMissing, StoreFull
from learning.refusals import StoreUnavailable
from tests.blobstore.store_contract import LARGE, BlobStoreContract, pattern, published
from tests.blobstore.weak_link import WeakLink, between
from tests.s3_process import BUCKET, S3Process
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PATIENCE_S = 0.5

_folders = itertools.count()


@pytest.fixture
def folder() -> str:
    return f"tests/{next(_folders)}"


def opened(endpoint: str, folder: str, **options: Any) -> ObjectBlobStore:
    options = {"access_key_id": "key", "secret_access_key": "secret", **options}
    return ObjectBlobStore(options.pop("bucket", BUCKET), folder, endpoint=endpoint, **options)


@pytest_asyncio.fixture
async def store(s3_server: S3Process, folder: str) -> AsyncIterator[ObjectBlobStore]:
    async with opened(s3_server.endpoint, folder) as store:
        yield store


@pytest_asyncio.fixture
async def link(s3_server: S3Process) -> AsyncIterator[WeakLink]:
    async with between(s3_server.port) as link:
        yield link


class TestObjectBlobStore(BlobStoreContract):
    @pytest_asyncio.fixture
    async def other(self, s3_server: S3Process, folder: str) -> AsyncIterator[ObjectBlobStore]:
        async with opened(s3_server.endpoint, folder) as other:
            yield other


async def test_more_names_than_one_page_holds_are_listed(store: ObjectBlobStore) -> None:
    names = [f"tasks/{number:04d}/task.json" for number in range(1100)]
    for first in range(0, len(names), 50):
        await asyncio.gather(*(store.write(name, [b""]) for name in names[first : first + 50]))
    assert await store.list("tasks") == names
    assert await store.list("tasks/0007") == ["tasks/0007/task.json"]


# Late writes

SLOT = "sums/titanic/000000000007/replica.0"


@pytest.mark.parametrize("before", [None, b"what was there"])
async def test_a_slot_write_that_arrives_late_cannot_undo_the_next_one(
    s3_server: S3Process, link: WeakLink, folder: str, store: ObjectBlobStore, before: bytes | None
) -> None:
    # What should happen: a write that is held up in the network is given up; the next one counts.
    # What should not happen: the first one arrives, and takes the place of the bytes that a pointer names by now.
    slow = opened(link.endpoint, folder, patience_s=PATIENCE_S)
    await slow.write_slot("another", [b"so that the server is known to honour conditions"])
    if before is not None:
        await slow.write_slot(SLOT, [before])
    already = link.answered
    link.lets_requests_through.clear()
    with pytest.raises(StoreUnavailable) as fault:
        await slow.write_slot(SLOT, [b"late"])
    assert isinstance(fault.value.__cause__, TimeoutError)
    await store.write_slot(SLOT, [b"next"])
    link.lets_requests_through.set()

    async def arrived() -> bool:
        return link.answered > already

    await eventually(arrived)
    assert await store.read(SLOT) == b"next"
    await slow.write_slot(SLOT, [b"the one after it"])
    assert await store.read(SLOT) == b"the one after it"


async def test_a_slot_is_found_again_by_a_store_that_did_not_write_it(s3_server: S3Process, folder: str) -> None:
    one, two = opened(s3_server.endpoint, folder), opened(s3_server.endpoint, folder)
    for number, writer in enumerate([one, two, one, one, two]):
        await writer.write_slot(SLOT, [b"%d" % number])
        assert await one.read(SLOT) == b"%d" % number


# Conditions

CONFLICT = b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
TAKEN = b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0\r\n\r\n'


async def test_a_conflict_of_which_nothing_came_is_tried_again(link: WeakLink, folder: str) -> None:
    store = opened(link.endpoint, folder)
    await store.write("a", [b""], replace=False)
    link.answers_instead = [CONFLICT, CONFLICT]
    await store.write("tasks/new/task.json", [b"mine"], replace=False)
    assert link.answers_instead == []
    assert await store.read("tasks/new/task.json") == b"mine"


async def test_a_conflict_that_somebody_else_won_is_told(link: WeakLink, folder: str, store: ObjectBlobStore) -> None:
    weak = opened(link.endpoint, folder)
    await weak.write("a", [b""], replace=False)
    await store.write("tasks/new/task.json", [b"theirs"])
    link.answers_instead = [CONFLICT]
    with pytest.raises(BlobExists):
        await weak.write("tasks/new/task.json", [b"mine"], replace=False)


async def test_conflicts_without_end_are_unavailable(link: WeakLink, folder: str) -> None:
    store = opened(link.endpoint, folder)
    await store.write("a", [b""], replace=False)
    for call in (store.write("b", [b""], replace=False), store.write_slot("b", [b""])):
        link.answers_instead = [CONFLICT] * 100
        with pytest.raises(StoreUnavailable):
            await call


async def test_a_server_that_ignores_conditions_is_not_written_to(link: WeakLink, folder: str) -> None:
    store = opened(link.endpoint, folder)
    for call in (store.write("a", [b"x"], replace=False), store.write_slot("a", [b"x"])):
        link.answers_instead = [TAKEN] * 3
        with pytest.raises(StorageMisconfigured, match=r"ignores conditions .* Choose a server that honours them\.$"):
            await call
        assert await store.list("") == []
    await store.write("a", [b"x"], replace=False)  # it was another server, behind the same name


# Networks and servers that fail


async def every_call(store: ObjectBlobStore) -> list[BaseException | None]:
    async def chunks() -> None:
        async for _ in store.read_chunks("a", chunk_size=10):
            pass

    return await asyncio.gather(
        store.write("a", [b"x"]),
        store.write("b", [b"x"], replace=False),
        store.write_slot("c", [b"x"]),
        store.read("a"),
        chunks(),
        store.size("a"),
        store.list("a"),
        store.delete("a"),
        store.check(),
        published(store, "d", b"x"),
        published(store, "d", pattern(2 * STAGED_PART_BYTES)),
        return_exceptions=True,
    )


async def test_a_server_that_does_not_answer_is_unavailable(link: WeakLink, folder: str) -> None:
    store = opened(link.endpoint, folder, patience_s=PATIENCE_S)
    link.lets_requests_through.clear()
    assert [type(answer) for answer in await every_call(store)] == [StoreUnavailable] * 11


async def test_a_server_that_is_not_there_is_unavailable_until_it_comes(own_s3: S3Process, folder: str) -> None:
    store = opened(own_s3.endpoint, folder, patience_s=PATIENCE_S)
    await store.write_slot(SLOT, [b"1"])
    own_s3.kill()
    assert [type(answer) for answer in await every_call(store)] == [StoreUnavailable] * 11
    own_s3.start()
    await store.write_slot(SLOT, [b"2"])
    assert await store.read(SLOT) == b"2"


@pytest.mark.parametrize("size", [LARGE, MULTIPART_BYTES])
async def test_a_server_that_is_killed_in_the_middle_of_a_write_is_unavailable(
    own_s3: S3Process, folder: str, size: int
) -> None:
    async with between(own_s3.port) as link:
        store = opened(link.endpoint, folder, patience_s=PATIENCE_S)
        link.lets_requests_through.clear()
        writing = asyncio.ensure_future(store.write("a", [bytes(size)]))
        await link.held.wait()
        own_s3.kill()
        link.lets_requests_through.set()
        with pytest.raises(StoreUnavailable):
            await writing
        own_s3.start()
        with pytest.raises(BlobMissing):
            await store.read("a")
        await store.write("a", [b"again"])
        assert await store.read("a") == b"again"


async def test_a_writer_who_is_killed_in_the_middle_leaves_the_old_blob(
    s3_server: S3Process, link: WeakLink, folder: str, store: ObjectBlobStore
) -> None:
    await store.write("a", [b"old"])
    link.lets_requests_through.clear()
    script = f"""
import asyncio
from blobstore.object_storage import ObjectBlobStore

store = ObjectBlobStore({BUCKET!r}, {folder!r}, endpoint={link.endpoint!r}, access_key_id="key", secret_access_key="s")
asyncio.run(store.write("a", [bytes(20_000_000)]))
"""
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=ROOT, env=PYTHON)
    await link.held.wait()
    writer.kill()
    await writer.wait()
    answered = link.answered
    link.lets_requests_through.set()

    async def turned_away() -> bool:
        return link.answered > answered

    await eventually(turned_away)
    assert await store.read("a") == b"old"


async def test_a_staged_blob_whose_writer_is_killed_while_it_is_published_has_no_name(
    s3_server: S3Process, link: WeakLink, folder: str, store: ObjectBlobStore, tmp_path: Path
) -> None:
    # What should happen: neither the bucket nor the folder for temporary files shows anything of it.
    script = f"""
import asyncio, sys
from blobstore.object_storage import ObjectBlobStore

async def publish() -> None:
    store = ObjectBlobStore(
        {BUCKET!r}, {folder!r}, endpoint={link.endpoint!r}, access_key_id="key", secret_access_key="s"
    )
    async with store.staged() as staged:
        await staged.append(bytes(20_000_000))
        print("staged", flush=True)
        await staged.publish("a")

asyncio.run(publish())
"""
    link.lets_requests_through.clear()
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), cwd=ROOT, env={**PYTHON, "TMPDIR": str(tmp_path)}
    )
    await link.held.wait()
    assert list(tmp_path.iterdir()) == []
    writer.kill()
    await writer.wait()
    answered = link.answered
    link.lets_requests_through.set()

    async def turned_away() -> bool:
        return link.answered > answered

    await eventually(turned_away)
    assert await store.list("") == []


async def test_a_full_disk_on_the_way_to_the_bucket_says_so(
    store: ObjectBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", fail)
    async with store.staged() as staged:
        with pytest.raises(StoreFull):
            await staged.append(b"x")
    assert await store.list("") == []


LONG = 12 * 1024 * 1024


@pytest.mark.parametrize("after", [0, 200, 5_000_000])
async def test_a_reader_whose_connection_breaks_goes_on_with_the_same_blob(
    link: WeakLink, folder: str, store: ObjectBlobStore, after: int
) -> None:
    await store.write("a", [pattern(LONG)])
    weak = opened(link.endpoint, folder)
    for read in (weak.read, lambda name: joined(weak, name)):
        link.cuts_next_answer_after = after
        assert await read("a") == pattern(LONG)
        assert link.cuts_next_answer_after is None


async def joined(store: ObjectBlobStore, name: str) -> bytes:
    return b"".join([chunk async for chunk in store.read_chunks(name, chunk_size=1 << 20)])


async def test_a_reader_whose_connection_breaks_gets_no_mixture_of_two_blobs(
    link: WeakLink, folder: str, store: ObjectBlobStore
) -> None:
    await store.write("a", [pattern(LONG, 1)])
    link.cuts_next_answer_after = 5_000_000
    chunks = opened(link.endpoint, folder).read_chunks("a", chunk_size=1 << 20)
    got = [await anext(chunks)]
    await store.write("a", [pattern(LONG, 2)])
    with pytest.raises(StoreUnavailable):
        await _take_all(chunks, got)
    assert pattern(LONG, 1).startswith(b"".join(got))


async def _take_all(chunks: AsyncIterator[bytes], got: list[bytes]) -> None:
    async for chunk in chunks:
        got.append(chunk)


# What an operator must mend


async def test_a_wrong_key_is_a_fault_that_says_so(own_s3: S3Process, folder: str) -> None:
    # Signatures are checked from here on, so the right key shows that ours are right.
    key, secret = own_s3.require_keys()
    async with opened(own_s3.endpoint, folder, access_key_id=key, secret_access_key=secret) as store:
        await store.check()
        await store.write("tasks/a-b", [pattern(LARGE)], replace=False)
        assert await store.read("tasks/a-b") == pattern(LARGE)
        assert await store.list("tasks") == ["tasks/a-b"]
    for wrong in ({"access_key_id": "stranger"}, {"access_key_id": key, "secret_access_key": "wrong"}):
        store = opened(own_s3.endpoint, folder, **wrong)
        for call in (store.check(), store.read("tasks/a-b"), store.write("b", [b""]), store.write_slot("b", [b""])):
            with pytest.raises(StorageMisconfigured) as fault:
                await call
            assert fault.value.reason == "STORE_UNAVAILABLE"
            assert str(fault.value) == (
                "The object storage refuses the access key, or what was asked for with it. Check "
                "DISCO_S3_ACCESS_KEY_ID, DISCO_S3_SECRET_ACCESS_KEY, what they may do with the bucket, "
                "and the clock of this machine."
            )


async def test_a_bucket_that_is_not_there_is_a_fault_that_says_so(s3_server: S3Process) -> None:
    store = opened(s3_server.endpoint, "", bucket="nobody-made-this")
    for call in (store.check(), store.read("a"), store.write("a", [b""]), store.list("")):
        with pytest.raises(StorageMisconfigured) as fault:
            await call
        assert str(fault.value) == (
            "The object storage has no bucket nobody-made-this. Create it, or correct DISCO_BLOB_URL."
        )


@pytest.mark.parametrize(
    "answer",
    [
        b"400 Bad Request\r\nContent-Length: 54\r\n\r\n<Error><Code>AuthorizationHeaderMalformed</Code></Error>",
        b"301 Moved Permanently\r\nContent-Length: 43\r\n\r\n<Error><Code>PermanentRedirect</Code></Error>",
    ],
)
async def test_a_bucket_in_another_region_is_a_fault_that_says_so(link: WeakLink, folder: str, answer: bytes) -> None:
    link.answers_instead = [b"HTTP/1.1 " + answer]
    with pytest.raises(
        StorageMisconfigured, match=r"keeps the bucket models in another region\. Correct DISCO_S3_REGION"
    ):
        await opened(link.endpoint, folder).write("a", [b""])


# Memory

PYTHON = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"}
READERS = 8
MEASURED = """
import asyncio, resource, sys
from blobstore.object_storage import MULTIPART_BYTES, ObjectBlobStore

def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

async def measured() -> None:
    store = ObjectBlobStore("models", sys.argv[2], endpoint=sys.argv[1], access_key_id="key", secret_access_key="s")
    body = bytearray(b"x") * (2 * MULTIPART_BYTES)
    await store.write_slot("warm", [b""])
    peaks = [peak()]
    async with store.staged() as staged:
        for start in range(0, len(body), 1 << 20):
            await staged.append(memoryview(body)[start : start + (1 << 20)])
        await staged.publish("tasks/staged")
    peaks.append(peak())
    await store.write("tasks/large", [memoryview(body)[:1000], memoryview(body)[1000:]])
    peaks.append(peak())
    await store.write_slot("sums/large", [memoryview(body)[:1000], memoryview(body)[1000:]])
    peaks.append(peak())
    for name in ("tasks/large", "sums/large", "tasks/staged"):
        size = 0
        async for chunk in store.read_chunks(name, chunk_size=1 << 20):
            size += len(chunk)
        assert size == len(body)
    await asyncio.gather(*(once(store) for _ in range(int(sys.argv[3]))))
    peaks.append(peak())
    print(*(later - earlier for earlier, later in zip(peaks, peaks[1:])))

async def once(store: ObjectBlobStore) -> None:
    async for _ in store.read_chunks("tasks/large", chunk_size=1 << 20):
        pass

asyncio.run(measured())
"""


def test_transfers_take_memory_for_what_is_under_way_and_no_more(s3_server: S3Process, folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, s3_server.endpoint, folder, str(READERS)],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env=PYTHON,
    )
    staged, in_parts, at_once, reading = map(int, done.stdout.split())
    assert in_parts < 2 * PARTS_AT_ONCE * PART_BYTES
    assert at_once < 2 * PARTS_AT_ONCE * PART_BYTES
    assert staged < 3 * STAGED_PART_BYTES, "two, and what a process does once"
    assert reading < READERS * 16 * 1024 * 1024, "eight blobs would be a gibibyte"


def test_the_library_is_loaded_where_object_storage_is_configured_and_nowhere_else() -> None:
    script = """
import sys
from services.aggregator import __main__
from services.signaling import __main__
from services.task_service import __main__
assert "blobstore.opening" in sys.modules
print(sorted(name for name in sys.modules if name.partition(".")[0] == "obstore"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=ROOT, env=PYTHON)
    assert done.stdout == b"[]\n"
