"""What every store of blobs promises: written once, run for each implementation.

A store is given by the fixture `store`, and a second one on the same blobs, as of another process, by `other`.
"""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from blobstore.store import BlobExists, BlobMissing, BlobStore

LARGE = 3 * 1024 * 1024 + 17
"""More than a store handles at once."""

BAD_NAMES = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "a b",
    "a\0b",
    "a\\b",
    "ä",
    "~writing/a",
    "a\n",
    "x" * 129,
    "/".join("abcdefghi"),
]


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which every place can be told from its neighbours."""
    block = bytes((index * 7 + seed) % 251 for index in range(251))
    return (block * (size // 251 + 1))[:size]


async def published(store: BlobStore, name: str, *parts: bytes) -> None:
    async with store.staged() as staged:
        for part in parts:
            await staged.append(part)
        await staged.publish(name)


class BlobStoreContract:
    # Writing and reading

    @pytest.mark.parametrize("size", [0, 1, 1024, 256 * 1024, 256 * 1024 + 1, LARGE])
    async def test_a_blob_is_read_as_it_was_written(self, store: BlobStore, other: BlobStore, size: int) -> None:
        await store.write("tasks/titanic/weights/ab", [pattern(size)])
        assert await store.read("tasks/titanic/weights/ab") == pattern(size)
        assert await other.read("tasks/titanic/weights/ab") == pattern(size)
        assert await other.size("tasks/titanic/weights/ab") == size

    async def test_parts_of_every_kind_are_joined(self, store: BlobStore) -> None:
        numbers = memoryview(bytearray(b"\1\0\0\0\2\0\0\0")).cast("i")
        await store.write("a", [b"one ", bytearray(b"two "), memoryview(b"three "), b"", numbers])
        assert await store.read("a") == b"one two three \1\0\0\0\2\0\0\0"
        await store.write("a", [])
        assert await store.read("a") == b""

    async def test_a_blob_is_replaced_by_a_shorter_one(self, store: BlobStore) -> None:
        await store.write("a/b", [pattern(LARGE)])
        await store.write("a/b", [b"short"])
        assert await store.read("a/b") == b"short"
        assert await store.size("a/b") == 5

    async def test_names_of_every_allowed_kind_are_kept_apart(self, store: BlobStore) -> None:
        names = ["a", "b/a", "b/.hidden", "b/a.0", "b/...", "-/_", "x" * 128, "/".join("12345678")]
        for name in names:
            await store.write(name, [name.encode()])
        assert [await store.read(name) for name in names] == [name.encode() for name in names]
        assert await store.list("") == sorted(names)

    @pytest.mark.parametrize("name", BAD_NAMES)
    async def test_any_other_name_is_a_bug(self, store: BlobStore, name: str) -> None:
        for call in (
            store.write(name, [b""]),
            store.keep(name, [b""], digest="5d" * 32),
            store.write_slot(name, [b""]),
            store.read(name),
            anext(aiter(store.read_chunks(name, chunk_size=10))),
            store.size(name),
            published(store, name, b""),
            store.delete(name),
            store.list(name or "/"),
        ):
            with pytest.raises(AssertionError):
                await call

    async def test_what_is_not_there_is_missing(self, store: BlobStore) -> None:
        await store.write("folder/blob", [b"x"])
        for name in ("absent", "folder", "folder/blob/below", "folder/absent", "absent/blob"):
            with pytest.raises(BlobMissing):
                await store.read(name)
            with pytest.raises(BlobMissing):
                await store.size(name)
            with pytest.raises(BlobMissing):
                await anext(aiter(store.read_chunks(name, chunk_size=10)))

    # Writing once

    async def test_a_blob_named_by_its_digest_is_kept_and_is_written_anew_only_where_it_is_damaged(
        self, store: BlobStore, other: BlobStore
    ) -> None:
        data = pattern(LARGE)
        digest = hashlib.sha256(data).hexdigest()
        for writer in (store, other, store):
            await writer.keep(f"a/{digest}", [data[:10], data[10:]], digest=digest)
            assert await other.read(f"a/{digest}") == data
        for damaged in (b"", data[:-1], bytes(LARGE)):
            await store.write(f"a/{digest}", [damaged])
            await other.keep(f"a/{digest}", [data], digest=digest)
            assert await store.read(f"a/{digest}") == data
        assert await store.list("") == [f"a/{digest}"]

    async def test_a_blob_that_is_there_is_not_written_over_where_that_is_not_wanted(self, store: BlobStore) -> None:
        await store.write("a/b", [b"first"], replace=False)
        with pytest.raises(BlobExists):
            await store.write("a/b", [b"second"], replace=False)
        assert await store.read("a/b") == b"first"
        assert await store.list("") == ["a/b"]

    @pytest.mark.parametrize("size", [10, LARGE])
    async def test_of_many_who_write_at_once_exactly_one_succeeds(
        self, store: BlobStore, other: BlobStore, size: int
    ) -> None:
        writers = [(store, other)[index % 2] for index in range(8)]
        answers = await asyncio.gather(
            *(
                writer.write("tasks/new/task.json", [pattern(size, index)], replace=False)
                for index, writer in enumerate(writers)
            ),
            return_exceptions=True,
        )
        won = [index for index, answer in enumerate(answers) if answer is None]
        assert len(won) == 1
        assert all(isinstance(answer, BlobExists) for answer in answers if answer is not None)
        assert await other.read("tasks/new/task.json") == pattern(size, won[0])

    async def test_readers_see_whole_blobs_while_they_are_replaced(self, store: BlobStore, other: BlobStore) -> None:
        versions = [pattern(LARGE, 1), pattern(LARGE // 2, 2)]
        await store.write("a", [versions[0]])

        async def write() -> None:
            for index in range(10):
                await store.write("a", [versions[index % 2]])

        writing = asyncio.ensure_future(write())
        seen = 0
        while not writing.done():
            assert await other.read("a") in versions
            assert b"".join([chunk async for chunk in other.read_chunks("a", chunk_size=100_000)]) in versions
            seen += 1
        await writing
        assert seen > 0

    # Staging

    @pytest.mark.parametrize("sizes", [(), (0,), (1, 2, 3), (256 * 1024, 1), (256 * 1024 + 1,), (LARGE, 4 * LARGE, 7)])
    async def test_a_staged_blob_is_read_as_it_was_appended(
        self, store: BlobStore, other: BlobStore, sizes: tuple[int, ...]
    ) -> None:
        parts = [pattern(size, seed) for seed, size in enumerate(sizes)]
        whole = b"".join(parts)
        async with store.staged() as staged:
            for end, part in enumerate(parts, start=1):
                await staged.append(memoryview(part))
                assert staged.size == sum(sizes[:end])
                assert staged.digest == hashlib.sha256(b"".join(parts[:end])).hexdigest()
            assert await staged.read_range(start=0, size=staged.size) == whole
            assert (
                await staged.read_range(start=staged.size // 2, size=staged.size // 3)
                == (whole[len(whole) // 2 :][: len(whole) // 3])
            )
            await staged.publish("tasks/titanic/weights/ab")
        for reader in (store, other):
            assert await reader.read("tasks/titanic/weights/ab") == whole
            assert await reader.size("tasks/titanic/weights/ab") == len(whole)

    async def test_nothing_of_a_staged_blob_is_seen_before_it_is_published_and_then_all(
        self, store: BlobStore, other: BlobStore
    ) -> None:
        async with store.staged() as staged:
            for part in (b"one ", pattern(LARGE)):
                await staged.append(part)
                assert (await other.list(""), await other.list_folders("")) == ([], [])
            await other.sweep()
            await staged.publish("a/b")
            assert await other.list("") == ["a/b"]
        assert await other.read("a/b") == b"one " + pattern(LARGE)

    async def test_a_staged_blob_that_is_not_published_leaves_nothing(self, store: BlobStore, other: BlobStore) -> None:
        await store.write("a", [b"old"])
        async with store.staged() as staged:
            await staged.append(pattern(LARGE))
        assert await other.list("") == ["a"]

        async def stop(stopped: type[BaseException]) -> None:
            async with store.staged() as staged:
                await staged.append(pattern(LARGE))
                raise stopped

        for stopped in (ValueError, asyncio.CancelledError):
            with pytest.raises(stopped):
                await stop(stopped)
            assert await other.list("") == ["a"]
        assert await other.read("a") == b"old"

    async def test_a_staged_blob_takes_the_place_of_one_that_is_there(self, store: BlobStore, other: BlobStore) -> None:
        await store.write("a/b", [pattern(LARGE)])
        await published(store, "a/b", b"short")
        assert await other.read("a/b") == b"short"
        await published(other, "a/b", pattern(LARGE, 3), b"end")
        assert await store.read("a/b") == pattern(LARGE, 3) + b"end"

    async def test_staged_blobs_at_once_do_not_mix(self, store: BlobStore, other: BlobStore) -> None:
        async with store.staged() as first, other.staged() as second, store.staged() as third:
            for seed in range(3):
                await asyncio.gather(
                    *(staged.append(pattern(LARGE, seed + n)) for n, staged in enumerate((first, second, third)))
                )
            await asyncio.gather(second.publish("one"), first.publish("one"), third.publish("third"))
        assert await store.read("one") in [b"".join(pattern(LARGE, seed + n) for seed in range(3)) for n in range(2)]
        assert await store.read("third") == b"".join(pattern(LARGE, seed + 2) for seed in range(3))
        assert await store.list("") == ["one", "third"]

    # Slots

    @pytest.mark.parametrize("sizes", [(10, 10), (LARGE, LARGE), (LARGE, 10), (10, LARGE), (10, 0)])
    async def test_a_slot_holds_what_was_written_last(
        self, store: BlobStore, other: BlobStore, sizes: tuple[int, int]
    ) -> None:
        for seed, size in enumerate(sizes):
            half = size // 2
            data = pattern(size, seed)
            await store.write_slot("sums/titanic/000000000007/replica.0", [data[:half], data[half:]])
            assert await other.read("sums/titanic/000000000007/replica.0") == data

    async def test_a_writer_who_is_cancelled_writes_nothing_later(self, store: BlobStore) -> None:
        # What should happen: a cancelled call ends only once nothing of it is left to be written.
        # What should not happen: its bytes reach the slot after those that were written next.
        for _ in range(5):
            first = asyncio.ensure_future(store.write_slot("slot", [pattern(8 * LARGE, 1)]))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await store.write_slot("slot", [pattern(100, 2)])
            for _ in range(20):
                await asyncio.sleep(0)
            assert await store.read("slot") == pattern(100, 2)

    # Chunks

    @pytest.mark.parametrize(("size", "chunk_size"), [(10, 3), (9, 3), (2, 3), (LARGE, 1024 * 1024), (LARGE, 100_000)])
    async def test_chunks_are_all_of_one_size_but_the_last(self, store: BlobStore, size: int, chunk_size: int) -> None:
        await store.write("a", [pattern(size)])
        chunks = [chunk async for chunk in store.read_chunks("a", chunk_size=chunk_size)]
        assert b"".join(chunks) == pattern(size)
        assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_size}
        assert len(chunks) == -(-size // chunk_size)

    async def test_an_empty_blob_has_no_chunks(self, store: BlobStore) -> None:
        await store.write("a", [])
        assert [chunk async for chunk in store.read_chunks("a", chunk_size=10)] == []

    async def test_a_reader_of_chunks_keeps_its_blob_though_it_is_replaced_and_deleted(self, store: BlobStore) -> None:
        for change in (store.write("a", [pattern(LARGE, 9)]), store.delete("a")):
            await store.write("a", [pattern(LARGE)])
            chunks = store.read_chunks("a", chunk_size=1024 * 1024)
            got = [await anext(chunks)]
            await change
            got += [chunk async for chunk in chunks]
            assert b"".join(got) == pattern(LARGE)

    # Ranges

    @pytest.mark.parametrize(("start", "size"), [(0, 1), (0, 10), (7, 3), (LARGE - 5, 5), (3, LARGE - 3)])
    async def test_a_range_is_these_bytes_of_the_blob(
        self, store: BlobStore, other: BlobStore, start: int, size: int
    ) -> None:
        await store.write("a", [pattern(LARGE)])
        assert await other.read_range("a", start=start, size=size) == pattern(LARGE)[start : start + size]

    async def test_a_range_of_a_blob_that_is_not_there_is_missing(self, store: BlobStore) -> None:
        with pytest.raises(BlobMissing):
            await store.read_range("absent", start=0, size=1)

    # Listing and deleting

    async def test_the_names_below_a_folder_are_listed_in_order(self, store: BlobStore) -> None:
        for name in ("b/2", "b/10", "b/c/1", "bb/1", "a"):
            await store.write(name, [b""])
        assert await store.list("") == ["a", "b/10", "b/2", "b/c/1", "bb/1"]
        assert await store.list("b") == ["b/10", "b/2", "b/c/1"]
        assert await store.list("b/c") == ["b/c/1"]
        assert await store.list("a") == []
        assert await store.list("absent") == []

    async def test_the_folders_in_a_folder_are_listed_in_order_and_nothing_else(self, store: BlobStore) -> None:
        for name in ("a", "b/10", "b/c/1", "b/c/2", "b/cd/e/f", "b/a/1", "bb/1"):
            await store.write(name, [b"x"])
        assert await store.list_folders("") == ["b", "bb"]
        assert await store.list_folders("b") == ["a", "c", "cd"]
        assert await store.list_folders("b/c") == []
        assert await store.list_folders("a") == []
        assert await store.list_folders("absent") == []

    async def test_a_deleted_blob_is_gone_and_deleting_again_is_no_error(
        self, store: BlobStore, other: BlobStore
    ) -> None:
        await store.write("a/b/c", [b"x"])
        await store.write("a/d", [b"y"])
        await store.delete("a/b/c")
        await other.delete("a/b/c")
        await store.delete("a")
        with pytest.raises(BlobMissing):
            await other.read("a/b/c")
        assert await store.list("") == ["a/d"]
        await other.write("a/b/c", [b"again"])
        assert await store.read("a/b/c") == b"again"

    async def test_writing_and_deleting_neighbours_do_not_disturb_each_other(
        self, store: BlobStore, other: BlobStore
    ) -> None:
        async def churn(writer: BlobStore, name: str) -> None:
            for index in range(50):
                await writer.write(name, [pattern(300_000, index)])
                await asyncio.sleep(0)
                assert await writer.read(name) == pattern(300_000, index)
                await writer.delete(name)

        await asyncio.gather(*(churn((store, other)[index % 2], f"deep/folder/{index}") for index in range(4)))
        assert await store.list("") == []
