"""What is counted is found again, whatever the round store has forgotten."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from blobstore import names, records
from blobstore.directory import DirectoryBlobStore
from blobstore.records import LedgerEntry, LedgerLine
from learning.federated import Admission, Contribution, RoundStatus
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import DuplicateContribution, VersionNotFound
from roundstore.memory_store import MemoryRoundStore
from roundstore.store import SumPointer
from services.aggregator.counted import Counted

SHA256_OF_NOTHING = hashlib.sha256().hexdigest()
TASK, WHO = TaskId("titanic"), ParticipantId("a")
POLICY = Policy(min_participants=1, quorum_share=None, quorum_count=1, deadline_s=600, staleness_weights=(4, 2, 1))


async def a_store_with(*admitted: tuple[str, int]) -> tuple[MemoryRoundStore, RoundStatus]:
    """A store in whose rounds 0, 1, … the participant was admitted with (digest, base round); the last one is open."""
    store = MemoryRoundStore()
    status = await store.open_round(TASK, POLICY, number=0, now=1.0)
    for digest, base_round in admitted:
        if status.contributions:
            epoch, number = status.epoch, status.number
            await store.start_closing(TASK, epoch=epoch, number=number, closer=ReplicaId("r"), until=9.0, now=1.0)
            status = await store.finish_closing(TASK, epoch=epoch, number=number)
        _, status = await store.commit_group(
            TASK,
            epoch=status.epoch,
            number=status.number,
            pointer=SumPointer(ReplicaId("r"), "sums/x", "d", 1, 1),
            group=[Contribution(WHO, digest, base_round, 1)],
            now=1.0,
        )
    return store, status


async def a_ledger(folder: Path, *lines: LedgerLine) -> DirectoryBlobStore:
    """Versions 1 to 3; the second one counts `lines`."""
    blobs = DirectoryBlobStore(folder)
    for version in (1, 2, 3):
        counted = lines if version == 2 else ()
        entry = LedgerEntry(version, f"{version}" * 64, base_digest="", create_time=0.0, contributions=counted)
        await records.write_version(blobs, TASK, b"", entry)
    return blobs


async def found(
    store: MemoryRoundStore, status: RoundStatus, digest: str, base_round: int, *, blobs: DirectoryBlobStore
) -> Admission | None:
    return await Counted(store, blobs).find(status, participant_id=WHO, digest=digest, base_round=base_round)


async def test_contribution_is_found_in_whichever_round_it_was_counted(tmp_path: Path) -> None:
    blobs = await a_ledger(tmp_path)
    store, status = await a_store_with(("x", 0), ("y", 0), ("z", 2))
    for digest, base_round, number in (("x", 0, 0), ("y", 0, 1), ("z", 2, 2)):
        admission = await found(store, status, digest, base_round, blobs=blobs)
        assert admission is not None
        assert admission.round == number


async def test_same_weights_from_another_round_are_another_contribution(tmp_path: Path) -> None:
    blobs = await a_ledger(tmp_path)
    store, status = await a_store_with(("w", 0), ("x", 0))
    for seen in (status, replace(status, number=2)):
        assert await found(store, seen, "x", 1, blobs=blobs) is None
        assert await found(store, seen, "x", 0, blobs=blobs) is not None


async def test_other_weights_are_refused_in_the_round_that_collects_only(tmp_path: Path) -> None:
    blobs = await a_ledger(tmp_path)
    store, status = await a_store_with(("x", 0), ("y", 1))
    with pytest.raises(DuplicateContribution):
        await found(store, status, "z", 1, blobs=blobs)
    started = await store.start_closing(TASK, epoch=status.epoch, number=1, closer=ReplicaId("r"), until=9.0, now=1.0)
    assert await found(store, started.status, "z", 1, blobs=blobs) is None  # it would be judged in the next round


async def test_what_the_store_has_forgotten_is_found_in_the_ledger_and_nothing_else_is(tmp_path: Path) -> None:
    # What should happen: Redis lost what it knew of round 1, version 2 counts it, and the participant sends it again.
    # What should not happen: a second place for it, or the place of another contribution.
    blobs = await a_ledger(tmp_path, LedgerLine(WHO, "x", 1, 7, 4), LedgerLine("b", "y", 0, 1, 5))
    store = MemoryRoundStore()
    status = await store.open_round(TASK, POLICY, number=2, now=1.0)
    expected = Admission(participant_id=WHO, digest="x", base_round=1, weight=7, round=1, position=4)
    assert await found(store, status, "x", 1, blobs=blobs) == expected
    for digest, base_round in (("y", 0), ("x", 2), ("x", 0), ("z", 1)):
        assert await found(store, status, digest, base_round, blobs=blobs) is None


async def test_what_the_store_has_forgotten_of_the_round_that_is_closed_is_found_in_its_version(tmp_path: Path) -> None:
    """What should happen: Redis lost its newest writes, so that round 1 is closed a second time, to a version that
    exists and counts more than Redis knows. What should not: a contribution is refused as stale, and counted there."""
    blobs = DirectoryBlobStore(tmp_path)
    store = MemoryRoundStore()
    opened = await store.open_round(TASK, POLICY, number=1, now=1.0)
    group = [Contribution(ParticipantId("b"), "y", 1, 1)]
    pointer = SumPointer(ReplicaId("r"), "sums/x", "d", 1, 1)
    await store.commit_group(TASK, epoch=opened.epoch, number=1, pointer=pointer, group=group, now=1.0)
    closing = await store.start_closing(TASK, epoch=opened.epoch, number=1, closer=ReplicaId("r"), until=9.0, now=1.0)
    assert await found(store, closing.status, "x", 1, blobs=blobs) is None
    lines = (LedgerLine("b", "y", 1, 1, 0), LedgerLine(WHO, "x", 1, 7, 1))
    for version, counted in ((1, ()), (2, lines)):
        entry = LedgerEntry(version, SHA256_OF_NOTHING, base_digest="", create_time=0.0, contributions=counted)
        await records.write_version(blobs, TASK, b"", entry)
    expected = Admission(participant_id=WHO, digest="x", base_round=1, weight=7, round=1, position=1)
    assert await found(store, closing.status, "x", 1, blobs=blobs) == expected
    assert await found(store, closing.status, "z", 1, blobs=blobs) is None
    assert await found(store, closing.status, "x", 2, blobs=blobs) is None
    assert await found(store, opened, "x", 1, blobs=blobs) is None  # the next look at the round says more
    await blobs.delete(names.ledger_entry(TASK, 1))  # the power took that, too: version 2 hangs in the air
    assert await found(store, closing.status, "x", 1, blobs=blobs) is None


async def test_entries_are_read_once_and_again_where_versions_were_lost(tmp_path: Path) -> None:
    blobs = await a_ledger(tmp_path, LedgerLine(WHO, "x", 1, 7, 4))
    store = MemoryRoundStore()
    status = await store.open_round(TASK, POLICY, number=2, now=1.0)
    counted = Counted(store, blobs)
    name = names.ledger_entry(TASK, 2)

    async def is_found(at: RoundStatus) -> bool:
        return await counted.find(at, participant_id=WHO, digest="x", base_round=1) is not None

    assert await is_found(status)
    await blobs.delete(name)
    assert await is_found(status)
    with pytest.raises(VersionNotFound):
        await is_found(replace(status, epoch="another"))
