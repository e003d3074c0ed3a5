"""Tasks with robust rules: exactly once, the same bytes on every way, and one liar among honest ones."""

from __future__ import annotations

import hashlib
import itertools
import struct
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disco.aggregator.v1.aggregator_service_pb2 import HandOverContributionsRequest

from blobstore import names, records
from learning.aggregation import Aggregation, AggregationRule
from learning.federated import Admission
from learning.ids import ParticipantId
from learning.policy import Policy
from learning.refusals import StoredDataDamaged, StoreUnavailable
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from roundstore.store import ClosingRound
from services.aggregator import kept_contributions
from tests.services.aggregator.room import BASE, TASK, Member, Room, exact_mean, floats, octets, opened, weights_of
from tests.services.aggregator.rules import plain_robust
from tests.services.aggregator.troubled_store import Method, Trouble, TroubledStore, fail, lose_answer, send_twice
from tests.waiting import eventually

WHO = ("a", "b", "c", "d", "e")
HONEST = {who: (weights_of(seed), seed + 1) for seed, who in enumerate(WHO)}
POLICY = Policy(min_participants=1, quorum_share=None, quorum_count=5, deadline_s=600, staleness_weights=(1,))
MEDIAN = Aggregation(AggregationRule.MEDIAN)
TRIMMED = Aggregation(AggregationRule.TRIMMED_MEAN, trim_fraction=0.2)
CLIPPED = Aggregation(AggregationRule.CENTERED_CLIPPING)
TWICE = Aggregation(AggregationRule.CENTERED_CLIPPING, radius=0.1, iterations=2)
RULES = {"median": MEDIAN, "trimmed": TRIMMED, "clipped": CLIPPED, "twice": TWICE}

Contributions = dict[str, tuple[bytes, int]]


class Died(BaseException):
    """The process ends here."""


async def die(call: Method) -> Any:
    raise Died


def expected(rule: str, contributions: Contributions) -> bytes:
    """What a plain implementation makes of the contributions, taken in the order of their digests."""
    ordered = sorted(contributions.values(), key=lambda each: (hashlib.sha256(each[0]).hexdigest(), each[1]))
    plain = [(floats(weights), weight) for weights, weight in ordered]
    if rule == "median":
        return plain_robust.median(plain)
    if rule == "trimmed":
        return plain_robust.trimmed_mean(plain, cut=1)
    around = (
        plain_robust.clipped(floats(octets(BASE)), plain, radius=None, rank=3, iterations=1)
        if rule == "clipped"
        else plain_robust.clipped(floats(octets(BASE)), plain, radius=0.1, rank=0, iterations=2)
    )
    return struct.pack(f"<{len(around)}f", *around)


async def contribute(member: Member, *who: str, contributions: Contributions = HONEST) -> None:
    for each in who:
        weights, samples = contributions[each]
        await member.submit(each, weights, sample_count=samples)


async def check_closed(room: Room, member: Member, rule: str, contributions: Contributions = HONEST) -> bytes:
    await member.reaches(1)
    number, weights = await member.version()
    assert (number, weights) == (1, expected(rule, contributions))
    entry = await records.read_ledger_entry(room.blobs, TASK, 1)
    assert entry.rule == RULES[rule].rule.value
    counted = sorted((line.participant_id, line.digest, line.weight) for line in entry.contributions)
    assert counted == sorted(
        (who, hashlib.sha256(weights).hexdigest(), weight) for who, (weights, weight) in contributions.items()
    )
    return weights


@pytest.mark.parametrize("rule", RULES)
async def test_a_round_makes_the_version_of_the_plain_implementation_and_leaves_no_contribution_behind(
    store: RedisRoundStore, tmp_path: Path, rule: str
) -> None:
    async with opened(store, tmp_path, POLICY, aggregation=RULES[rule]) as room, room.member() as member:
        await contribute(member, *WHO)
        await check_closed(room, member, rule)

        async def nothing_is_left() -> bool:
            return not await room.blobs.list(names.contributions(TASK)) and not await room.blobs.list(names.sums(TASK))

        await eventually(nothing_is_left)


@pytest.mark.parametrize("rule", RULES)
async def test_any_order_and_any_split_over_replicas_make_the_same_bytes(
    store: RedisRoundStore, redis_url: str, tmp_path: Path, rule: str
) -> None:
    for attempt, order in enumerate([WHO, WHO[::-1], ("c", "a", "e", "b", "d")]):
        path = tmp_path / str(attempt)
        path.mkdir()
        async with opened(store, path, POLICY, aggregation=RULES[rule]) as room, room.members(2) as members:
            for who, member in zip(order, itertools.cycle(members), strict=False):
                await contribute(member, who)
            await check_closed(room, members[0], rule)
        async with connect(redis_url) as redis:
            await redis.flushdb()  # the next attempt is another installation


async def test_even_a_sum_that_depends_on_its_order_does_not_depend_on_that_of_the_admissions(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    # Two large ones that cancel each other, and a small one: what is left of it in float64 is decided by the order.
    contributions = [octets([value] * len(BASE)) for value in (1000.0, -1000.0, 1e-13)]
    wide = Aggregation(AggregationRule.CENTERED_CLIPPING, radius=1e30)
    async with opened(store, tmp_path, POLICY, aggregation=wide) as room:
        admissions = []
        for position, weights in enumerate(contributions):
            digest = hashlib.sha256(weights).hexdigest()
            await room.blobs.write(names.contribution(TASK, 0, digest), [weights])
            who = ParticipantId(WHO[position])
            admissions.append(
                Admission(participant_id=who, digest=digest, base_round=0, weight=1, round=0, position=position)
            )
        status = replace(await store.open_round(TASK, POLICY, number=0, now=1.0), total_weight=3)
        made = set()
        for order in itertools.permutations(admissions):
            closing = ClosingRound(status=status, admissions=order, sums=())
            kept = kept_contributions.KeptContributions(room.blobs, closing, size=len(BASE))
            made.add((await kept.combined(wide)).tobytes())
        assert len(made) == 1


@pytest.mark.parametrize("width", [4, 20, 60])
async def test_pieces_that_are_read_side_by_side_leave_no_trace(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(kept_contributions.KeptContributions.__init__, "__kwdefaults__", {"read_at_once": width})
    async with opened(store, tmp_path, POLICY, aggregation=MEDIAN) as room, room.member() as member:
        await contribute(member, *WHO)
        await check_closed(room, member, "median")


@pytest.mark.parametrize("trouble", [fail, lose_answer, send_twice])
async def test_caller_who_repeats_after_a_commit_that_nobody_knows_of_is_counted_once(
    store: RedisRoundStore, tmp_path: Path, trouble: Trouble
) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, POLICY, aggregation=TRIMMED) as room, room.member(troubled) as member:
        await contribute(member, "a")
        troubled.trouble("commit_group", trouble)
        with nullcontext() if trouble is send_twice else pytest.raises(StoreUnavailable):
            await contribute(member, "b")
        await contribute(member, "b", "a", "c", "d", "e")
        await check_closed(room, member, "trimmed")


async def test_a_contribution_that_could_not_be_written_is_not_admitted(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store, tmp_path, POLICY, aggregation=MEDIAN) as room, room.member() as member:
        await contribute(member, "a")

        async def full(name: str, parts: Any, **options: Any) -> None:
            raise StoreUnavailable

        with monkeypatch.context() as trouble:
            trouble.setattr(room.blobs, "write", full)
            with pytest.raises(StoreUnavailable):
                await contribute(member, "b")
        assert (await room.status()).contributions == 1
        await contribute(member, "b", "c", "d", "e")
        await check_closed(room, member, "median")


async def test_two_with_the_same_weights_share_a_blob_and_are_both_counted(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    twins = HONEST | {"b": HONEST["a"]}
    async with opened(store, tmp_path, POLICY, aggregation=TRIMMED) as room, room.member() as member:
        await contribute(member, *WHO[:4], contributions=twins)
        assert len(await room.blobs.list(names.contributions_of_round(TASK, 0))) == 3
        await contribute(member, "e", contributions=twins)
        await check_closed(room, member, "trimmed", twins)


async def test_what_is_repeated_at_another_replica_leaves_the_blob_alone_that_was_acknowledged(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with (
        opened(store, tmp_path, POLICY, aggregation=MEDIAN) as room,
        room.member() as one,
        room.member() as other,
    ):
        weights, samples = HONEST["a"]
        receipt = await one.submit("a", weights, sample_count=samples)
        name = names.contribution(TASK, 0, hashlib.sha256(weights).hexdigest())
        (file,) = tmp_path.rglob(name)
        acknowledged = file.stat()
        # In one message, so that nothing is looked for before it is folded.
        contribution = HandOverContributionsRequest.Contribution(
            participant_id="a", round=0, octets=weights, sample_count=samples
        )
        request = HandOverContributionsRequest(task_id=TASK, contributions=[contribution])
        answer = await other.stub.HandOverContributions(request)
        assert [each.receipt for each in answer.outcomes] == [receipt]
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (acknowledged.st_ino, acknowledged.st_mtime_ns)


@pytest.mark.parametrize("rule", ["median", "clipped"])
@pytest.mark.parametrize("step", ["weights", "entry", "finish"])
async def test_closer_that_dies_leaves_the_same_bytes_to_the_next(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, step: str
) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, POLICY, aggregation=RULES[rule]) as room:
        async with room.member(troubled, attending=False) as closer:
            await contribute(closer, *WHO)
            write, folders = room.blobs.write, {"weights": "/weights/", "entry": "/versions/"}

            async def die_after_writing(name: str, parts: Any, **options: Any) -> None:
                await write(name, parts, **options)
                if folders[step] in name:
                    raise Died

            with monkeypatch.context() as dying:
                if step == "finish":
                    troubled.trouble("finish_closing", die)
                else:
                    dying.setattr(room.blobs, "write", die_after_writing)
                with pytest.raises(Died):
                    await closer.replica.closing.close(await room.status())
        room.clock.ahead += 11
        async with room.member() as other:
            await check_closed(room, other, rule)


@pytest.mark.parametrize("rule", ["median", "clipped"])
@pytest.mark.parametrize("change", ["damaged", "longer", "shorter", "ragged", "missing"])
async def test_a_contribution_that_is_not_what_was_admitted_makes_no_version(
    store: RedisRoundStore, tmp_path: Path, rule: str, change: str
) -> None:
    async with (
        opened(store, tmp_path, POLICY, aggregation=RULES[rule]) as room,
        room.member(attending=False) as member,
    ):
        await contribute(member, *WHO)
        weights = HONEST["c"][0]
        name = names.contribution(TASK, 0, hashlib.sha256(weights).hexdigest())
        broken = {
            "damaged": weights[:-1] + bytes([weights[-1] ^ 1]),
            "longer": weights + weights,
            "shorter": weights[:-4],
            "ragged": weights[:-1],
        }
        if change == "missing":
            await room.blobs.delete(name)
        else:
            await room.blobs.write(name, [broken[change]])
        with pytest.raises(StoredDataDamaged) as damaged:
            await member.replica.closing.close(await room.status())
        assert damaged.value.variables == {"name": name}
        await room.blobs.write(name, [weights])
        assert await member.replica.closing.close(await room.status())
        await check_closed(room, member, rule)


@pytest.mark.parametrize("rule", ["median", "trimmed", "clipped"])
async def test_one_poisoned_contribution_moves_the_mean_and_hardly_the_robust_rules(
    store: RedisRoundStore, tmp_path: Path, rule: str
) -> None:
    values = np.frombuffer(HONEST["e"][0], dtype="<f4")
    poison = np.where(np.abs(values) > 0, np.sign(values) * 1000, 1000).astype("<f4").tobytes()
    liars = {who: (weights, 1) for who, (weights, _) in HONEST.items()} | {"e": (poison, 1)}
    honest = np.array(floats(exact_mean(octets(BASE), [liars[who] for who in WHO[:4]])))
    async with opened(store, tmp_path, POLICY, aggregation=RULES[rule]) as room, room.member() as member:
        await contribute(member, *WHO, contributions=liars)
        robust = await check_closed(room, member, rule, liars)
    mean = floats(exact_mean(octets(BASE), liars.values()))
    assert np.linalg.norm(np.array(floats(robust)) - honest) < 0.5
    assert np.linalg.norm(np.array(mean) - honest) > 500
