"""Tasks are looked up once in a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from blobstore import names
from blobstore.directory import DirectoryBlobStore
from learning.refusals import StoreUnavailable, TaskNotFound, WrongScheme
from learning.task import Scheme
from services.signaling.task_book import REMEMBERED_S, TaskBook
from tests.services.signaling.peers import TASK, a_task, keep_task


async def test_a_task_is_remembered_for_a_moment(tmp_path: Path) -> None:
    now = 0.0
    await keep_task(tmp_path, a_task(min_peers=4))
    async with DirectoryBlobStore(tmp_path) as blobs:
        book = TaskBook(blobs, clock=lambda: now)
        assert (await book.find(TASK)).policy.min_participants == 4
        await blobs.delete(names.task_record(TASK))
        now = REMEMBERED_S - 1
        assert (await book.find(TASK)).task_id == TASK
        now = REMEMBERED_S
        with pytest.raises(TaskNotFound):
            await book.find(TASK)


async def test_while_the_store_is_away_a_known_task_goes_on(tmp_path: Path) -> None:
    # What should happen: peers who are there go on; whoever asks for a task that is not known is told to come back.
    class Away(DirectoryBlobStore):
        is_away = False

        async def read(self, name: str) -> bytes:
            if self.is_away:
                raise StoreUnavailable
            return await super().read(name)

    now = 0.0
    await keep_task(tmp_path, a_task())
    async with Away(tmp_path) as blobs:
        book = TaskBook(blobs, clock=lambda: now)
        await book.find(TASK)
        blobs.is_away, now = True, REMEMBERED_S
        assert (await book.find(TASK)).task_id == TASK
        with pytest.raises(StoreUnavailable):
            await TaskBook(blobs, clock=lambda: now).find(TASK)


@pytest.mark.parametrize("scheme", [Scheme.FEDERATED, Scheme.LOCAL])
async def test_only_decentralized_tasks_have_peers(tmp_path: Path, scheme: Scheme) -> None:
    await keep_task(tmp_path, a_task(scheme=scheme))
    async with DirectoryBlobStore(tmp_path) as blobs:
        for _ in range(2):
            with pytest.raises(WrongScheme, match=scheme.value):
                await TaskBook(blobs, clock=lambda: 0.0).find(TASK)
