"""Versions are told as their ledger states them, and every receipt can be proved, over real gRPC."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1 import round_pb2

from blobstore import ledger, names, records
from learning import merkle
from learning.policy import Policy
from learning.receipts import Statement
from learning.refusals import (
    InvalidId,
    MalformedMessage,
    NotInVersion,
    StoredDataDamaged,
    TaskNotFound,
    VersionNotFound,
)
from roundstore.redis_store import RedisRoundStore
from tests.services.aggregator.room import RECEIPT_KEY, TASK, Member, Room, opened, weights_of

POLICY = Policy(min_participants=1, quorum_share=None, quorum_count=2, deadline_s=600, staleness_weights=(1,))


async def rounds(member: Member, count: int) -> list[round_pb2.Receipt]:
    """Plays rounds with the participants a and b; all receipts."""
    receipts = []
    for number in range(count):
        for who, seed in (("a", 0), ("b", 1)):
            receipts.append(await member.submit(who, weights_of(10 * number + seed), round=number))
        await member.reaches(number + 1)
    return receipts


async def entry_of(member: Member, number: int | None = None) -> bytes:
    request = messages.ReadLedgerEntryRequest(task_id=TASK, version=number)
    header, data = None, b""
    async for message in member.stub.ReadLedgerEntry(request):
        if message.WhichOneof("part") == "header":
            header = message.header
        data += message.entry_chunk
    assert header is not None
    assert (header.entry_size, header.sha256) == (len(data), hashlib.sha256(data).digest())
    return data


async def prove(member: Member, **fields: Any) -> Any:
    answer = await member.stub.ProveContribution(messages.ProveContributionRequest(**{"task_id": TASK, **fields}))
    return answer.proof


async def test_versions_are_listed_from_the_newest_page_by_page(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await rounds(member, 3)
        token, pages = "", []
        while True:
            page = await member.stub.ListVersions(
                messages.ListVersionsRequest(task_id=TASK, page_size=2, page_token=token)
            )
            pages.append([version.number for version in page.versions])
            token = page.next_page_token
            if not token:
                break
        assert pages == [[3, 2], [1, 0]]
        whole = await member.stub.ListVersions(messages.ListVersionsRequest(task_id=TASK))
        assert [version.number for version in whole.versions] == [3, 2, 1, 0]
        assert all(version.kept for version in whole.versions)
        for version in whole.versions:
            answer = await member.stub.GetVersion(messages.GetVersionRequest(task_id=TASK, version=version.number))
            assert answer.version == version
        newest = await member.stub.GetVersion(messages.GetVersionRequest(task_id=TASK))
        assert newest.version == whole.versions[0]


async def test_a_version_is_told_as_its_entry_states_it(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await rounds(member, 1)
        answer = await member.stub.GetVersion(messages.GetVersionRequest(task_id=TASK, version=1))
        version, data = answer.version, await entry_of(member, 1)
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        first = await entry_of(member, 0)
        assert await entry_of(member) == data == await room.blobs.read(names.ledger_entry(TASK, 1))
        assert (version.task_id, version.number, version.rule) == (TASK, 1, "mean")
        assert version.weights_sha256.hex() == hashlib.sha256((await member.version(1))[1]).hexdigest() == entry.digest
        assert version.base_sha256 == hashlib.sha256((await member.version(0))[1]).digest()
        assert (version.contributions, version.total_weight, version.weight_cap) == (2, 2, 2**20)
        assert version.merkle_root.hex() == entry.merkle_root == ledger.with_root(entry).merkle_root
        assert version.previous_entry_sha256 == hashlib.sha256(first).digest()
        assert version.entry_sha256 == hashlib.sha256(data).digest()
        assert version.create_time.ToNanoseconds() / 1e9 == pytest.approx(entry.create_time, abs=1e-6)
        assert not version.HasField("restored_version")
        assert not version.HasField("source")


async def test_every_receipt_is_proved_by_version_and_by_round(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        for receipt in await rounds(member, 2):
            proof = await prove(member, round=receipt.round, sha256=receipt.sha256)
            assert proof == await prove(member, version=receipt.round + 1, sha256=receipt.sha256)
            assert proof.receipt == receipt
            stated = Statement(
                TASK,
                receipt.round,
                receipt.participant_id,
                receipt.sha256.hex(),
                receipt.weight,
                receipt.position,
            )
            Ed25519PublicKey.from_public_bytes(RECEIPT_KEY.public_key).verify(receipt.signature, stated.encode())
            assert proof.leaf == merkle.leaf_hash(stated.encode())
            assert (proof.index, proof.tree_size) == (receipt.position, 2)
            answer = await member.stub.GetVersion(messages.GetVersionRequest(task_id=TASK, version=proof.version))
            assert proof.root == answer.version.merkle_root
            assert merkle.verify_inclusion(proof.leaf, proof.index, 2, path=list(proof.path), root=proof.root)


async def test_equal_weights_of_two_participants_are_two_leaves(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        receipts = {who: await member.submit(who, weights_of(0)) for who in ("a", "b")}
        await member.reaches(1)
        digest = receipts["a"].sha256
        assert (await prove(member, version=1, sha256=digest)).receipt == receipts["a"]
        for who, receipt in receipts.items():
            proof = await prove(member, version=1, sha256=digest, participant_id=who)
            assert proof.receipt == receipt
        with pytest.raises(NotInVersion):
            await prove(member, version=1, sha256=digest, participant_id="c")


async def test_what_is_not_in_a_version_is_refused_by_name(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        receipt = (await rounds(member, 1))[0]
        digest = hashlib.sha256(b"other").digest()
        for number in (0, 1):
            with pytest.raises(NotInVersion) as refusal:
                await prove(member, version=number, sha256=digest)
            assert refusal.value.variables == {"digest": digest.hex(), "version": str(number)}
        for version in (2, 2**63):
            with pytest.raises(VersionNotFound):
                await prove(member, version=version, sha256=receipt.sha256)
        with pytest.raises(VersionNotFound):
            await prove(member, round=1, sha256=receipt.sha256)


@pytest.mark.parametrize("fields", [{"version": 1, "sha256": b"short"}, {"version": 1}, {"sha256": bytes(32)}])
async def test_a_question_that_lacks_something_is_refused(
    store: RedisRoundStore, tmp_path: Path, fields: dict[str, Any]
) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        with pytest.raises(MalformedMessage):
            await prove(member, **fields)


async def test_unknown_tasks_versions_and_pages_are_refused(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        stub = member.stub
        for call in (
            lambda task: stub.ListVersions(messages.ListVersionsRequest(task_id=task)),
            lambda task: stub.GetVersion(messages.GetVersionRequest(task_id=task)),
            lambda task: prove(member, task_id=task, version=0, sha256=bytes(32)),
        ):
            with pytest.raises(TaskNotFound):
                await call("nope")
            with pytest.raises(InvalidId):
                await call("a b")
        with pytest.raises(VersionNotFound):
            await stub.GetVersion(messages.GetVersionRequest(task_id=TASK, version=1))
        with pytest.raises(VersionNotFound):
            await entry_of(member, 1)
        for token in ("x", "-1", "1" * 20, "٣"):
            with pytest.raises(MalformedMessage):
                await stub.ListVersions(messages.ListVersionsRequest(task_id=TASK, page_token=token))
        far = await stub.ListVersions(messages.ListVersionsRequest(task_id=TASK, page_token="99"))
        assert [version.number for version in far.versions] == [0]


async def test_entries_from_before_there_were_receipts_are_listed_and_proved(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        await before_receipts(room)
        listed = await member.stub.ListVersions(messages.ListVersionsRequest(task_id=TASK))
        assert (listed.versions[0].merkle_root, listed.versions[0].previous_entry_sha256) == (b"", b"")
        proof = await prove(member, version=1, sha256=bytes.fromhex("d2" * 32))
        assert merkle.verify_inclusion(proof.leaf, 0, 1, path=[], root=proof.root)
        assert proof.receipt.task_id == TASK


async def before_receipts(room: Room) -> None:
    data = (
        b'{"version":1,"digest":"%s","base_digest":"%s","create_time":2.5,"total_weight":3,"weight_cap":9,'
        b'"contributions":[{"participant_id":"a","digest":"%s","base_round":0,"weight":3,"position":0}]}'
    ) % (b"d1" * 32, b"d0" * 32, b"d2" * 32)
    await room.blobs.write(names.ledger_entry(TASK, 1), [data])


async def test_an_entry_that_does_not_have_its_root_proves_nothing(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, POLICY) as room, room.member() as member:
        receipt = (await rounds(member, 1))[0]
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        forged = replace(entry, contributions=entry.contributions[:1])
        await room.blobs.write(names.ledger_entry(TASK, 1), [records.encode(forged)])
        with pytest.raises(StoredDataDamaged):
            await prove(member, version=1, sha256=receipt.sha256)
