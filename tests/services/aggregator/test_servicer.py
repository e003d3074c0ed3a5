"""What callers are told, over a real gRPC server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from disco.aggregator.v1 import aggregator_service_pb2, round_pb2
from disco.task.v1 import policy_pb2
from google.protobuf.duration_pb2 import Duration

from blobstore import names, records
from blobstore.records import WeightSpec
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import (
    DigestMismatch,
    DiscoError,
    DuplicateContribution,
    InvalidId,
    InvalidWeights,
    MalformedMessage,
    RoundAhead,
    RoundStale,
    ShuttingDown,
    StoredDataDamaged,
    StreamStalled,
    TaskNotFound,
    TooLarge,
    VersionNotFound,
    WeightsOutOfBound,
    WrongScheme,
)
from learning.task import Scheme
from roundstore.redis_store import RedisRoundStore
from tests.services.aggregator.room import (
    BASE,
    RECEIPT_KEY,
    SPECS,
    TASK,
    WAIT_S,
    Member,
    exact_mean,
    octets,
    opened,
    weights_of,
)
from tests.services.aggregator.troubled_store import Held, TroubledStore
from tests.waiting import eventually

A, B = weights_of(0), weights_of(1)
QUORUM_OF_TWO = Policy(min_participants=1, quorum_share=None, quorum_count=2, deadline_s=60, staleness_weights=(4, 2))
Header = aggregator_service_pb2.SubmitContributionRequest.Header
Part = aggregator_service_pb2.SubmitContributionRequest


def header(weights: bytes = A, **changes: Any) -> Part:
    fields = {"task_id": TASK, "participant_id": "a", "sha256": hashlib.sha256(weights).digest(), **changes}
    return Part(header=Header(**fields))


def chunks(*pieces: bytes) -> list[Part]:
    return [Part(weights_chunk=piece) for piece in pieces]


async def stream(member: Member, *parts: Part) -> round_pb2.Receipt:
    response = await member.stub.SubmitContribution(iter(parts))
    return response.receipt  # type: ignore[no-any-return]


async def test_round_is_told_in_full(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, QUORUM_OF_TWO) as room, room.member() as member:
        joined = await member.join("a")
        assert joined == round_pb2.Round(
            task_id=TASK,
            state=round_pb2.Round.STATE_COLLECTING,
            revision=joined.revision,
            participants=1,
            contributions_needed=2,
            waiting=round_pb2.Round.WAITING_FIRST_CONTRIBUTION,
            waiting_sentence="Round 0 waits for its first contribution; 1 present, 2 needed.",
            policy=policy_pb2.Policy(
                min_participants=1,
                quorum_count=2,
                staleness_weights=[4, 2],
                max_total_weight=2**20,
                deadline=Duration(seconds=60),
            ),
        )
        receipt = await member.submit("a", A, sample_count=5)
        assert receipt == round_pb2.Receipt(
            task_id=TASK,
            participant_id="a",
            sha256=hashlib.sha256(A).digest(),
            weight=20,
            signature=receipt.signature,
            key_id=RECEIPT_KEY.key_id,
        )
        told = await member.round()
        status = await room.status()
        assert status.first_contribution_at is not None
        assert told.deadline.ToNanoseconds() == round((status.first_contribution_at + 60) * 1e9)
        assert (told.contributions, told.total_weight, told.waiting) == (1, 20, round_pb2.Round.WAITING_QUORUM)
        assert told.revision > joined.revision
        await member.submit("b", B)
        after = await member.reaches(1)
        assert (after.number, after.version, after.last_contributions, after.contributions_ever) == (1, 1, 2, 2)
        assert not after.HasField("deadline")
        left = await member.leave("a")
        assert left.participants == 0
        assert (await member.leave("a")).revision == left.revision


async def test_participant_at_two_gateways_keeps_its_seat_when_the_older_socket_ends(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:
        await member.join("a", through="older")
        await member.join("a", through="newer")
        await member.stub.RenewLeases(aggregator_service_pb2.RenewLeasesRequest(task_id=TASK, participant_ids=["a"]))
        assert (await member.leave("a", through="older")).participants == 1
        assert (await member.leave("a", through="newer")).participants == 0
        for call in (member.join("a", through="{}"), member.leave("a", through="{}")):
            with pytest.raises(InvalidId):
                await call


async def test_leases_are_told_and_renewed(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room, room.member(participant_lease_s=12.5) as member:
        joined = await member.stub.JoinTask(aggregator_service_pb2.JoinTaskRequest(task_id=TASK, participant_id="a"))
        assert joined.lease.ToMilliseconds() == 12_500
        request = aggregator_service_pb2.RenewLeasesRequest(task_id=TASK, participant_ids=["a", "b"])
        assert (await member.stub.RenewLeases(request)).lease.ToMilliseconds() == 12_500
        assert (await member.round()).participants == 2
        request.participant_ids.extend(["c"] * 9999)
        with pytest.raises(MalformedMessage):
            await member.stub.RenewLeases(request)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"task_id": "../etc"}, InvalidId),
        ({"task_id": "nobody-made-it"}, TaskNotFound),
        ({"task_id": "among-peers"}, WrongScheme),
        ({"task_id": "too-large"}, TooLarge),
        ({"participant_id": ""}, InvalidId),
        ({"sha256": b"short"}, MalformedMessage),
        ({"round": 1}, RoundAhead),
        ({"round": 2**64 - 1}, RoundAhead),
    ],
)
async def test_header_that_cannot_lead_anywhere_is_refused_before_the_weights(
    store: RedisRoundStore, tmp_path: Path, changes: dict[str, Any], refusal: type[DiscoError]
) -> None:
    async with opened(store, tmp_path) as room, room.member(max_bytes=1000) as member:
        await room.add_task(Policy(min_participants=3), scheme=Scheme.DECENTRALIZED, task_id=TaskId("among-peers"))
        await room.add_task(Policy(), task_id=TaskId("too-large"), specs=[WeightSpec("a", (251,))])
        with pytest.raises(refusal):
            await stream(member, header(**changes))  # no weights: where they were read, they would be missed
        assert member.replica.memory.lent == 0


async def stream_without_an_end(member: Member, *parts: Part) -> None:
    answered = asyncio.Event()

    async def messages() -> AsyncIterator[Part]:
        for part in parts:
            yield part
        await answered.wait()

    try:
        async with asyncio.timeout(WAIT_S):
            await member.stub.SubmitContribution(messages())
    finally:
        answered.set()


async def test_what_is_known_is_answered_before_the_weights_are_read(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, QUORUM_OF_TWO) as room, room.members(2) as (first, second):
        receipt = await first.submit("a", A)
        assert await stream(second, header()) == receipt  # no weights at all
        with pytest.raises(DuplicateContribution):
            await stream(second, header(B))
        await second.submit("b", B)
        await first.reaches(1)
        assert await stream(second, header()) == receipt
        for number in (1, 2):
            await first.submit("a", A, round=number)
            await second.submit("b", B, round=number)
            await first.reaches(number + 1)
        assert await stream(second, header()) == receipt
        with pytest.raises(RoundStale) as refusal:
            await stream(second, header(B))
        assert refusal.value.variables == {"round": "0", "current_round": "3"}


async def test_same_weights_from_another_round_are_another_contribution(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, QUORUM_OF_TWO) as room, room.member() as member:
        await asyncio.gather(member.submit("a", A), member.submit("b", B))
        await member.reaches(1)
        again = await member.submit("a", A, round=1)
        assert (again.round, again.weight) == (1, 4)
        assert (await room.status()).contributions == 1


@pytest.mark.parametrize(
    ("parts", "refusal"),
    [
        ([], MalformedMessage),
        ([Part()], MalformedMessage),
        ([Part(weights_chunk=A)], MalformedMessage),
        ([header(), header()], MalformedMessage),
        ([header(), Part(weights_chunk=A[:-4])], InvalidWeights),
        ([header(), Part(weights_chunk=A), Part(weights_chunk=b"1234")], InvalidWeights),
        ([header(), Part(weights_chunk=B)], DigestMismatch),
        ([header(), Part(weights_chunk=A[:-3])], InvalidWeights),
        ([header(), *chunks(A[16:32], A[:16], A[32:])], DigestMismatch),
        ([header(), *chunks(A[:16], A[:16], A[32:])], DigestMismatch),
        ([header(), *chunks(A[:16], A[:16], A[16:])], InvalidWeights),
        ([header(), *chunks(A[:16], b"", A[16:])], MalformedMessage),
        ([header(), Part(weights_chunk=A[:16]), header(), Part(weights_chunk=A[16:])], MalformedMessage),
        ([header(sha256=bytes(32)), Part(weights_chunk=A)], DigestMismatch),
    ],
)
async def test_broken_stream_is_refused_and_its_sender_may_try_again(
    store: RedisRoundStore, tmp_path: Path, parts: list[Part], refusal: type[DiscoError]
) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:
        with pytest.raises(refusal):
            await stream(member, *parts)
        assert member.replica.memory.lent == 0
        assert (await room.status()).contributions == 0 if await store.read_status(TASK) else True
        assert (await member.submit("a", A)).position == 0


@pytest.mark.parametrize("parts", [[], [header()], [header(), Part(weights_chunk=A[:8])]])
async def test_silent_sender_is_let_go_of(store: RedisRoundStore, tmp_path: Path, parts: list[Part]) -> None:
    async with opened(store, tmp_path) as room, room.member(idle_timeout_s=0.05) as member:
        with pytest.raises(StreamStalled):
            await stream_without_an_end(member, *parts)
        assert member.replica.memory.lent == 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
async def test_weight_at_the_bound_is_admitted_and_the_next_float_is_refused(
    store: RedisRoundStore, tmp_path: Path, sign: float
) -> None:
    # The largest weight of the tensor is 2, so 2^11 is what fits.
    inside, outside = (octets([sign * weight, *BASE[1:]]) for weight in (2048.0, 2048.000244140625))
    async with opened(store, tmp_path, QUORUM_OF_TWO) as room, room.member() as member:
        with pytest.raises(WeightsOutOfBound) as refusal:
            await member.submit("a", outside)
        assert refusal.value.variables == {"tensor": SPECS[0].name, "bound": "2048"}
        await member.submit("a", inside)
        await member.submit("b", A)
        await member.reaches(1)
        assert await member.version(1) == (1, exact_mean(octets(BASE), [(inside, 4), (A, 4)]))


async def test_sender_who_vanishes_frees_its_memory(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:
        sending = asyncio.create_task(stream_without_an_end(member, header(), Part(weights_chunk=A[:8])))

        async def memory_is_lent() -> bool:
            return member.replica.memory.lent == len(A)

        async def memory_is_back() -> bool:
            return member.replica.memory.lent == 0

        await eventually(memory_is_lent)
        sending.cancel()
        await eventually(memory_is_back)


async def test_uploads_beyond_the_memory_wait_for_their_turn(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room, room.member(upload_memory_bytes=len(A) + 8) as member:
        sending = asyncio.create_task(stream_without_an_end(member, header(), Part(weights_chunk=A[:8])))

        async def memory_is_lent() -> bool:
            return member.replica.memory.lent == len(A)

        await eventually(memory_is_lent)
        waiting = asyncio.create_task(member.submit("b", B))
        assert (await member.round()).contributions == 0
        assert not waiting.done()
        sending.cancel()
        assert (await waiting).position == 0


async def test_rounds_are_watched_as_snapshots_and_the_stream_ends_with_the_process(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with (
        asyncio.timeout(WAIT_S),
        opened(store, tmp_path, QUORUM_OF_TWO) as room,
        room.member() as other,
        room.member() as member,
    ):
        rounds = aiter(member.stub.WatchRounds(aggregator_service_pb2.WatchRoundsRequest(task_id=TASK)))
        seen = [(await anext(rounds)).round]
        assert (seen[0].number, seen[0].contributions) == (0, 0)
        await other.submit("a", A)  # at another replica
        seen.append((await anext(rounds)).round)
        assert seen[1].contributions == 1
        await other.submit("b", B)
        while seen[-1].number == 0:
            seen.append((await anext(rounds)).round)
        assert [told.revision for told in seen] == sorted({told.revision for told in seen})
        with pytest.raises(TaskNotFound):
            await anext(aiter(member.stub.WatchRounds(aggregator_service_pb2.WatchRoundsRequest(task_id="nobody"))))
        member.stop.set()
        with pytest.raises(ShuttingDown):
            await anext(rounds)


async def test_watcher_hears_of_the_next_round_instead_of_one_that_passes(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.aggregator.servicer.PASSING_S", WAIT_S)
    async with asyncio.timeout(WAIT_S), opened(store, tmp_path, QUORUM_OF_TWO) as room, room.member() as member:
        rounds = aiter(member.stub.WatchRounds(aggregator_service_pb2.WatchRoundsRequest(task_id=TASK)))
        seen = [(await anext(rounds)).round]
        await member.submit("a", A)
        await member.submit("b", B)
        while seen[-1].number == 0:
            seen.append((await anext(rounds)).round)
        assert [(told.number, told.contributions) for told in seen] == [(0, 0), (0, 1), (1, 0)]


async def test_watcher_hears_of_a_round_that_is_being_closed_for_longer(store: RedisRoundStore, tmp_path: Path) -> None:
    troubled, held = TroubledStore(store), Held(after=True)
    async with asyncio.timeout(WAIT_S), opened(store, tmp_path, QUORUM_OF_TWO) as room, room.member(troubled) as member:
        troubled.trouble("start_closing", held)
        rounds = aiter(member.stub.WatchRounds(aggregator_service_pb2.WatchRoundsRequest(task_id=TASK)))
        await asyncio.gather(member.submit("a", A), member.submit("b", B))
        while (await anext(rounds)).round.state != round_pb2.Round.STATE_AGGREGATING:
            pass
        # And who begins to watch hears of it at once.
        others = aiter(member.stub.WatchRounds(aggregator_service_pb2.WatchRoundsRequest(task_id=TASK)))
        assert (await anext(others)).round.state == round_pb2.Round.STATE_AGGREGATING
        held.release.set()
        assert (await anext(rounds)).round.number == 1


async def test_slow_watcher_gets_the_newest_round_only(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, QUORUM_OF_TWO) as room, room.member() as member:
        servicer = member.replica.servicer
        rounds: Any = servicer.WatchRounds(aggregator_service_pb2.WatchRoundsRequest(task_id=TASK), None)
        async with aclosing(rounds):
            first = await anext(rounds)
            for who in ("a", "b", "c", "d", "e"):
                await member.join(who)
            second = await anext(rounds)
        assert (first.round.participants, second.round.participants) == (0, 5)


async def test_versions_are_read_in_chunks_with_their_specs(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, QUORUM_OF_TWO) as room, room.member() as member:
        assert await member.version() == (0, octets(BASE))
        await asyncio.gather(member.submit("a", A), member.submit("b", B))
        await member.reaches(1)
        assert (await member.version())[0] == 1
        assert await member.version(0) == (0, octets(BASE))
        with pytest.raises(VersionNotFound):
            await member.version(2)
        request = aggregator_service_pb2.ReadVersionRequest(task_id=TASK, version=0)
        first = await anext(aiter(member.stub.ReadVersion(request)))
        assert [(spec.name, tuple(spec.shape)) for spec in first.header.weight_specs] == [
            (spec.name, spec.shape) for spec in SPECS
        ]
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        assert entry.base_digest == first.header.sha256.hex()


@pytest.mark.parametrize("damage", [b"", bytes(4 * len(BASE))])
async def test_damaged_version_is_reported(store: RedisRoundStore, tmp_path: Path, damage: bytes) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:
        entry = await records.read_ledger_entry(room.blobs, TASK, 0)
        await room.blobs.write(names.weights(TASK, entry.digest), [damage])
        with pytest.raises(StoredDataDamaged):
            await member.version(0)
        with pytest.raises(StoredDataDamaged):
            await member.submit("a", A)


async def test_metadata_is_kept_by_round_and_key(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:

        async def put(who: str, round: int, key: str, value: str) -> None:
            await member.stub.PutMetadata(
                aggregator_service_pb2.PutMetadataRequest(
                    task_id=TASK, participant_id=who, round=round, key=key, value=value
                )
            )

        async def get(round: int, key: str) -> tuple[int, dict[str, str]]:
            answer = await member.stub.GetMetadata(
                aggregator_service_pb2.GetMetadataRequest(task_id=TASK, round=round, key=key)
            )
            return answer.round, dict(answer.values)

        await put("a", 1, "loss", "0.5")
        await put("b", 1, "loss", "0.25")
        await put("a", 3, "loss", "0.125")
        assert await get(2, "loss") == (1, {"a": "0.5", "b": "0.25"})
        assert await get(9, "loss") == (3, {"a": "0.125"})
        assert await get(9, "accuracy") == (0, {})
        await put("a", 1, "long", "ü" * 32768)
        with pytest.raises(TooLarge):
            await put("a", 1, "long", "ü" * 32769)
        with pytest.raises(InvalidId):
            await put("a", 1, "a key", "")


async def test_calls_that_name_no_federated_task_are_refused(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:
        await room.add_task(Policy(min_participants=3), scheme=Scheme.LOCAL, task_id=TaskId("alone"))
        with pytest.raises(WrongScheme) as refusal:
            await member.join("a", task_id="alone")
        assert refusal.value.variables == {"task_id": "alone", "scheme": "local"}
        with pytest.raises(TaskNotFound):
            await member.join("a", task_id="nobody-made-it")
        assert await store.list_open_tasks() == []


async def test_many_tasks_do_not_disturb_each_other(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, QUORUM_OF_TWO) as room, room.members(2) as members:
        others = [TaskId(f"task{number}") for number in range(5)]
        for other in others:
            await room.add_task(QUORUM_OF_TWO, task_id=other)

        async def contribute(task_id: TaskId, index: int) -> None:
            await members[index].submit(f"p{index}", weights_of(index), task_id=task_id)

        await asyncio.gather(*(contribute(task_id, index) for task_id in others for index in (0, 1)))

        async def all_are_closed() -> bool:
            return [await records.newest_version(room.blobs, other) for other in others] == [1] * 5

        await eventually(all_are_closed)
        assert (await members[0].round()).number == 0
