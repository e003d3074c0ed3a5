"""Rounds of tasks with central privacy: the same noise whoever closes them, and a budget that nobody gets back."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1 import round_pb2

from blobstore import names, records
from blobstore.records import PrivacyAccount
from learning.aggregation import Aggregation, AggregationRule
from learning.ids import TaskId
from learning.policy import Policy
from learning.privacy import CentralPrivacy
from learning.refusals import PrivacyBudgetSpent, PrivacyNotAccounted, RoundStale, StoredDataDamaged
from privacy.accountant import epsilon_of
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from services.aggregator.noise_secret import read_secret, shared_secret
from services.aggregator.rules.private_mean import (
    ClippedSum,
    Summed,
    disturb,
    means,
    plan_of_changes,
    purpose_of,
    rounded,
)
from services.aggregator.rules.server_optimizers import optimizer_of
from services.aggregator.rules.stepping import first_state, stepped
from services.aggregator.sum_plan import SumPlan
from services.task_service.catalog import Catalog
from tests.services.aggregator.room import BASE, SPECS, TASK, Member, Room, octets, opened, weights_of
from tests.services.aggregator.troubled_store import Method, TroubledStore

SECRET = bytes(range(32))
PRIVACY = CentralPrivacy(clipping_norm=0.3, noise_multiplier=2.0, delta=1e-5, epsilon_budget=4.0)
AGGREGATION = Aggregation(privacy=PRIVACY)
PAIRS = Policy(min_participants=2, quorum_share=None, quorum_count=2, deadline_s=600, staleness_weights=(3, 1))
EPSILON = [epsilon_of(PRIVACY, versions) for versions in range(5)]
"""Of 0, 1, 2, … versions; three fit the budget."""

assert EPSILON[3] < 4.0 < EPSILON[4]


class Died(BaseException):
    """The process ends here."""


async def die(call: Method) -> Any:
    raise Died


async def know_the_secret(room: Room) -> None:
    await room.blobs.write(names.noise_secret(), [f"{SECRET.hex()}\n".encode()])


Contribution = tuple[bytes, int, bytes, int]
"""Weights, the round whose version they started from, that version, what they weigh."""


def noisy_sum(base: bytes, contributions: list[Contribution], *, number: int, cap: int = 2**20) -> ClippedSum:
    """What a round must come to before it is divided."""
    total = ClippedSum(plan_of_changes(SumPlan.for_base(SPECS, base, cap), PRIVACY), PRIVACY)
    for weights, _, started_from, weight in contributions:
        total.add_change(weights, started_from, weight)
    summed = [Summed(_sha256(weights), base_round, weight) for weights, base_round, _, weight in contributions]
    purpose = purpose_of(TASK, number, _sha256(base), privacy=PRIVACY, plan=total.plan, summed=summed)
    disturb(total, SECRET, purpose, heaviest=max(weight for *_, weight in contributions))
    return total


def next_version(base: bytes, contributions: list[Contribution], *, number: int) -> bytes:
    return bytes(rounded(noisy_sum(base, contributions, number=number), base, PRIVACY))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def play(member: Member, number: int) -> bytes:
    """One round with two contributions; the version it makes."""
    for who, seed in (("a", 0), ("b", 1)):
        await member.submit(who, weights_of(10 * number + seed), round=number)
    await member.reaches(number + 1)
    return (await member.version(number + 1))[1]


async def spend_all(member: Member) -> None:
    for number in range(3):
        await play(member, number)


async def test_versions_are_the_clipped_mean_with_noise_and_say_what_they_came_to(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room, room.member() as member:
        await know_the_secret(room)
        base = octets(BASE)
        for number in range(2):
            of_round = [(weights_of(10 * number + seed), number, base, 3) for seed in (0, 1)]
            made = await play(member, number)
            assert made == next_version(base, of_round, number=number)
            base = made
            entry = await records.read_ledger_entry(room.blobs, TASK, number + 1)
            spent = PrivacyAccount(0.3, 2.0, 1e-5, 4.0, noisy_versions=number + 1, epsilon=EPSILON[number + 1])
            assert (entry.rule, entry.privacy) == ("mean", spent)
            stated = (await member.stub.GetVersion(messages.GetVersionRequest(task_id=TASK))).version.privacy
            assert (stated.noisy_versions, stated.epsilon) == (number + 1, EPSILON[number + 1])
            assert not stated.HasField("next_epsilon")
            told = (await member.round()).privacy
            assert (told.parameters.clipping_norm, told.parameters.noise_multiplier) == (0.3, 2.0)
            assert (told.parameters.delta, told.parameters.epsilon_budget) == (1e-5, 4.0)
            assert (told.noisy_versions, told.epsilon) == (number + 1, EPSILON[number + 1])
            assert told.next_epsilon == EPSILON[number + 2]


async def test_a_task_without_privacy_says_nothing_of_it(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, PAIRS) as room, room.member() as member:
        await play(member, 0)
        assert not (await member.round()).HasField("privacy")
        assert (await records.read_ledger_entry(room.blobs, TASK, 1)).privacy is None
        assert await room.blobs.list(names.PRIVATE.rstrip("/")) == []


@pytest.mark.parametrize("replicas", [1, 2, 5, 16])
async def test_any_order_and_any_split_over_aggregators_gives_the_same_bytes(
    store: RedisRoundStore, tmp_path: Path, replicas: int
) -> None:
    everybody = Policy(min_participants=16, quorum_share=None, quorum_count=16, deadline_s=600, staleness_weights=(1,))
    shuffle = random.Random(replicas)
    async with opened(store, tmp_path, everybody, aggregation=AGGREGATION) as room, room.members(replicas) as members:
        await know_the_secret(room)
        order = shuffle.sample(range(16), 16)
        for place, seed in enumerate(order):
            await members[place % replicas].submit(f"p{seed}", weights_of(seed))
        await members[0].reaches(1)
        of_round = [(weights_of(seed), 0, octets(BASE), 1) for seed in range(16)]
        assert await members[-1].version() == (1, next_version(octets(BASE), of_round, number=0))


@pytest.mark.parametrize("last_before_death", ["weights", "entry", "finish"])
async def test_closer_that_dies_between_two_steps_leaves_the_same_noise_to_the_next(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_before_death: str
) -> None:
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room:
        await know_the_secret(room)
        of_round = [(weights_of(seed), 0, octets(BASE), 3) for seed in (0, 1)]
        async with room.member(troubled, attending=False) as closer:
            for who, (weights, *_) in zip("ab", of_round, strict=True):
                await closer.submit(who, weights)
            write, folders = room.blobs.write, {"weights": "/weights/", "entry": "/versions/"}

            async def die_after_writing(name: str, parts: Any, **options: Any) -> None:
                await write(name, parts, **options)
                if folders[last_before_death] in name:
                    raise Died

            with monkeypatch.context() as dying:
                if last_before_death == "finish":
                    troubled.trouble("finish_closing", die)
                else:
                    dying.setattr(room.blobs, "write", die_after_writing)
                with pytest.raises(Died):
                    await closer.replica.closing.close(await room.status())
        room.clock.ahead += 20
        async with room.member() as other:
            await other.reaches(1)
            assert await other.version() == (1, next_version(octets(BASE), of_round, number=0))
            written = await room.blobs.list(names.all_weights(TASK))
            assert len(written) == 2, "version 0, and one version 1"
            assert (await other.round()).privacy.noisy_versions == 1


async def test_a_noisy_version_is_safe_from_a_loss_of_power_before_anybody_is_told_of_it(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubled, happened = TroubledStore(store), []
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room:
        write, settle = room.blobs.write, room.blobs.settle

        async def told_write(name: str, parts: Any, **options: Any) -> None:
            await write(name, parts, **options)
            happened.append(name.split("/")[2] if name.startswith("tasks/") else "")

        async def told_settle() -> None:
            await settle()
            happened.append("settled")

        async def told_finish(call: Method) -> Any:
            happened.append("told")
            return await call()

        monkeypatch.setattr(room.blobs, "write", told_write)
        monkeypatch.setattr(room.blobs, "settle", told_settle)
        troubled.trouble("finish_closing", told_finish)
        async with room.member(troubled, attending=False) as closer:
            for who, seed in (("a", 0), ("b", 1)):
                await closer.submit(who, weights_of(seed))
            happened.clear()
            assert await closer.replica.closing.close(await room.status())
    assert [what for what in happened if what] == ["weights", "versions", "settled", "told"]


async def test_a_server_optimizer_takes_its_step_along_the_noisy_mean(store: RedisRoundStore, tmp_path: Path) -> None:
    aggregation = Aggregation(AggregationRule.FEDAVGM, server_learning_rate=0.5, privacy=PRIVACY)
    async with opened(store, tmp_path, PAIRS, aggregation=aggregation) as room, room.member() as member:
        await know_the_secret(room)
        base = octets(BASE)
        total = noisy_sum(base, [(weights_of(seed), 0, base, 3) for seed in (0, 1)], number=0)
        optimizer = optimizer_of(aggregation)
        assert optimizer is not None
        step = stepped(optimizer, base, means(total, base, PRIVACY), first_state(optimizer, len(BASE)))
        assert await play(member, 0) == bytes(step)
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        assert (entry.rule, entry.privacy and entry.privacy.noisy_versions) == ("fedavgm", 1)
        await play(member, 1)
        assert (await member.round()).privacy.epsilon == EPSILON[2]


async def test_samples_give_nobody_more_weight(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room, room.member() as member:
        receipt = await member.submit("a", weights_of(1), sample_count=10**6)
        assert receipt.weight == 3


async def test_a_late_contribution_is_what_it_changed_of_the_version_it_started_from(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room, room.member() as member:
        await know_the_secret(room)
        first = await play(member, 0)
        late = octets([weight + 0.01 for weight in BASE])
        await member.submit("late", late, round=0)
        await member.submit("a", weights_of(10), round=1)
        await member.reaches(2)
        of_round = [(late, 0, octets(BASE), 1), (weights_of(10), 1, first, 3)]
        assert await member.version() == (2, next_version(first, of_round, number=1))
        # And alone it would be 0.01 along each weight, and not the way back from the noise of version 1.
        alone = ClippedSum(plan_of_changes(SumPlan.for_base(SPECS, first, 2**20), PRIVACY), PRIVACY)
        alone.add_change(late, octets(BASE), 1)
        np.testing.assert_allclose(
            np.frombuffer(rounded(alone, octets([0.0] * 12), PRIVACY), "<f4"), [0.01] * 12, atol=1e-7
        )


async def test_a_late_contribution_to_a_version_that_is_no_longer_kept_is_refused(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room, room.member() as member:
        await play(member, 0)
        await play(member, 1)
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        await room.blobs.write(names.bound_of_kept(TASK, 2), [b""])
        await room.blobs.delete(names.weights_of_version(TASK, 1, entry.digest))
        with pytest.raises(RoundStale) as stale:
            await member.submit("late", weights_of(5), round=1)
        assert stale.value.variables == {"round": "1", "current_round": "2"}
        receipt = await member.submit("punctual", weights_of(5), round=2)
        assert receipt.round == 2


async def test_the_task_stops_at_its_budget_and_says_why(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room, room.members(2) as (first, second):
        await spend_all(first)
        with pytest.raises(PrivacyBudgetSpent) as spent:
            await second.submit("a", weights_of(99), round=3)
        assert spent.value.variables == {
            "task_id": TASK,
            "epsilon": f"{EPSILON[3]:g}",
            "delta": "1e-05",
            "epsilon_budget": "4",
        }
        stopped = await second.round()
        assert (stopped.number, stopped.contributions) == (3, 0)
        assert stopped.waiting == round_pb2.Round.WAITING_PRIVACY_BUDGET
        assert stopped.waiting_sentence == str(spent.value)
        assert (stopped.privacy.epsilon, stopped.privacy.next_epsilon) == (EPSILON[3], EPSILON[4])
        assert (await second.join("newcomer")).waiting == round_pb2.Round.WAITING_PRIVACY_BUDGET
        assert (await second.version())[0] == 3, "its model is served as ever"
        # Who did not hear of a receipt gets it, after the end as well as before.
        receipt = await second.submit("a", weights_of(20), round=2)
        assert (receipt.round, receipt.participant_id) == (2, "a")
        assert await room.blobs.list(names.contributions(TASK)) == []


async def test_a_wiped_round_store_and_a_restart_give_nothing_back(
    store: RedisRoundStore, redis_url: str, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room:
        async with room.member() as member:
            await spend_all(member)
        async with connect(redis_url) as redis:
            await redis.flushdb()
        async with room.member() as member:
            with pytest.raises(PrivacyBudgetSpent):
                await member.submit("a", weights_of(99), round=3)
            assert (await member.round()).privacy.noisy_versions == 3


async def test_a_rollback_is_possible_costs_nothing_and_gives_nothing_back(
    store: RedisRoundStore, tmp_path: Path
) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room, room.member() as member:
        await spend_all(member)
        back = messages.RollBackRequest(task_id=TASK, version=0, request_id="back")
        answer = await member.stub.RollBack(back)
        assert (answer.version.rule, answer.version.privacy.noisy_versions) == ("restore", 3)
        assert answer.round.waiting == round_pb2.Round.WAITING_PRIVACY_BUDGET
        assert await member.version() == (4, octets(BASE))
        with pytest.raises(PrivacyBudgetSpent):
            await member.submit("a", weights_of(99), round=4)


async def test_a_fork_begins_with_what_its_source_had_spent(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room, room.member() as member:
        await spend_all(member)
        catalog = Catalog(room.blobs, max_bytes=1 << 20)
        for task, version in (("all", 3), ("some", 1), ("none", 0)):
            await catalog.fork(TASK, version, TaskId(task), title="", request_id="", now=2.0)
        with pytest.raises(PrivacyBudgetSpent):
            await member.submit("a", weights_of(99), task_id="all")
        assert (await member.join("a", "some")).privacy.noisy_versions == 1
        assert (await member.join("a", "none")).privacy.noisy_versions == 0
        for who in "ab":
            await member.submit(who, weights_of(ord(who)), task_id="some")
        made = messages.GetVersionRequest(task_id="some", version=1)
        watching = member.stub.WatchRounds(messages.WatchRoundsRequest(task_id="some"))
        async for seen in watching:
            if seen.round.number == 1:
                break
        watching.cancel()
        assert (await member.stub.GetVersion(made)).version.privacy.noisy_versions == 2
        initial = (await member.stub.GetVersion(messages.GetVersionRequest(task_id="all", version=0))).version
        assert (initial.rule, initial.privacy.epsilon) == ("fork", EPSILON[3])


async def test_without_the_library_nothing_is_taken_that_could_not_be_accounted_for(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room, room.member() as member:
        with pytest.raises(PrivacyNotAccounted):
            await member.submit("a", weights_of(99))
        assert (await room.status()).contributions == 0


async def test_the_secret_is_made_once_and_by_nobody_who_cannot_read_it(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, PAIRS, aggregation=AGGREGATION) as room:
        made = await shared_secret(room.blobs)
        assert made == await shared_secret(room.blobs) == read_secret(await room.blobs.read("keys/noise.hex"))
        assert (tmp_path / "keys" / "noise.hex").stat().st_mode & 0o077 == 0, "its owner alone reads it"
        for broken in (b"", b"no hex", made[:31].hex().encode(), b"\xff" * 64):
            await room.blobs.write(names.noise_secret(), [broken])
            with pytest.raises(StoredDataDamaged):
                await shared_secret(room.blobs)
