"""Tasks with a server optimizer: through kills and restarts the trajectory is that of the plain implementation."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from disco.aggregator.v1 import aggregator_service_pb2

from blobstore import names, records
from learning.aggregation import Aggregation, AggregationRule
from learning.refusals import StoredDataDamaged
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from tests.services.aggregator import fractions_mean
from tests.services.aggregator.room import BASE, SPECS, TASK, Member, Room, floats, octets, opened, weights_of
from tests.services.aggregator.rules.plain_optimizers import NUMBERS, PlainModel
from tests.services.aggregator.troubled_store import Method, TroubledStore
from tests.waiting import eventually

FEDADAM = Aggregation(AggregationRule.FEDADAM)
WHO = ("a", "b", "c")


class Died(BaseException):
    """The process ends here."""


async def die(call: Method) -> Any:
    raise Died


def contributions_to(round: int) -> dict[str, bytes]:
    return {who: weights_of(10 * round + seed) for seed, who in enumerate(WHO)}


def quotients(base: bytes, round: int) -> list[float]:
    """The mean of a round's contributions, before it is rounded."""
    found: list[float] = []
    for spec in SPECS:
        start, stop = len(found), len(found) + spec.size
        of_tensor = [(floats(weights)[start:stop], 1) for weights in contributions_to(round).values()]
        found += fractions_mean.promised_quotients(floats(base)[start:stop], 2**20, of_tensor)
    return found


def trajectory(rule: str, rounds: int) -> tuple[list[bytes], list[bytes]]:
    """The versions from the first on, and the states beside them, as they must be."""
    model, weights = PlainModel(rule, floats(octets(BASE))), octets(BASE)
    versions, states = [], []
    for number in range(rounds):
        weights = model.step(quotients(weights, number))
        versions.append(weights)
        states.append(model.state())
    return versions, states


async def contribute(member: Member, round: int) -> None:
    for who, weights in contributions_to(round).items():
        await member.submit(who, weights, round=round)


async def state_of(room: Room, version: int) -> bytes:
    entry = await records.read_ledger_entry(room.blobs, TASK, version)
    return await room.blobs.read(names.rule_state(TASK, version, entry.state_digest))


@pytest.mark.parametrize("rule", NUMBERS)
async def test_rounds_make_the_versions_of_the_plain_implementation(
    store: RedisRoundStore, tmp_path: Path, rule: str
) -> None:
    versions, states = trajectory(rule, 3)
    async with opened(store, tmp_path, aggregation=Aggregation(AggregationRule(rule))) as room, room.member() as member:
        for number in range(3):
            await contribute(member, number)
            await member.reaches(number + 1)
            assert await member.version() == (number + 1, versions[number])
            entry = await records.read_ledger_entry(room.blobs, TASK, number + 1)
            assert (entry.rule, entry.state_digest) == (rule, hashlib.sha256(states[number]).hexdigest())


async def test_a_restart_that_loses_the_round_store_goes_on_where_the_optimizer_was(
    store: RedisRoundStore, redis_url: str, tmp_path: Path
) -> None:
    versions, states = trajectory("fedadam", 4)
    async with opened(store, tmp_path, aggregation=FEDADAM) as room:
        for number in range(4):
            async with room.member() as member:
                await contribute(member, number)
                await member.reaches(number + 1)
                assert await member.version() == (number + 1, versions[number])
                assert await state_of(room, number + 1) == states[number]
            async with connect(redis_url) as redis:
                await redis.flushdb()


async def test_states_of_versions_before_the_newest_are_deleted(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, aggregation=FEDADAM) as room, room.member() as member:
        for number in range(2):
            await contribute(member, number)
            await member.reaches(number + 1)
        newest = await records.read_ledger_entry(room.blobs, TASK, 2)

        async def only_the_newest_is_left() -> bool:
            left = await room.blobs.list(names.rule_states(TASK))
            return left == [names.rule_state(TASK, 2, newest.state_digest)]

        await eventually(only_the_newest_is_left)


@pytest.mark.parametrize("last_before_death", ["state", "weights", "entry", "finish"])
async def test_closer_that_dies_between_two_steps_leaves_the_same_bytes_to_the_next(
    store: RedisRoundStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_before_death: str
) -> None:
    versions, states = trajectory("fedadam", 2)
    troubled = TroubledStore(store)
    async with opened(store, tmp_path, aggregation=FEDADAM) as room:
        async with room.member() as member:
            await contribute(member, 0)
            await member.reaches(1)
        async with room.member(troubled, attending=False) as closer:
            await contribute(closer, 1)
            write, folders = room.blobs.write, {"state": "states/", "weights": "/weights/", "entry": "/versions/"}

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
        room.clock.ahead += 11
        async with room.member() as other:
            await other.reaches(2)
            assert await other.version() == (2, versions[1])
            assert await state_of(room, 2) == states[1]
            assert len(await room.blobs.list(names.rule_states_of_version(TASK, 2))) == 1


CHANGES = ["damaged", "longer", "shorter", "missing"]


async def damage(room: Room, change: str, *, state: bytes) -> str:
    """Changes what the rule goes on with after round 0; the name of that blob."""
    entry = await records.read_ledger_entry(room.blobs, TASK, 1)
    name = names.rule_state(TASK, 1, entry.state_digest)
    broken = {"damaged": state[:-1] + b"\x00", "longer": state + state, "shorter": state[:-8]}
    if change == "missing":
        await room.blobs.delete(name)
    else:
        await room.blobs.write(name, [broken[change]])
    return name


@pytest.mark.parametrize("change", CHANGES)
async def test_a_state_that_is_not_what_the_ledger_says_makes_no_version(
    store: RedisRoundStore, tmp_path: Path, change: str
) -> None:
    versions, states = trajectory("fedadam", 2)
    async with opened(store, tmp_path, aggregation=FEDADAM) as room:
        async with room.member() as member:
            await contribute(member, 0)
            await member.reaches(1)
        async with room.member(attending=False) as closer:
            await contribute(closer, 1)
            name = await damage(room, change, state=states[0])
            with pytest.raises(StoredDataDamaged) as damaged:
                await closer.replica.closing.close(await room.status())
            assert damaged.value.variables == {"name": name}
            await room.blobs.write(name, [states[0]])
            assert await closer.replica.closing.close(await room.status())
            assert await closer.version() == (2, versions[1])


@pytest.mark.parametrize("change", CHANGES)
async def test_a_state_that_is_lost_when_a_replica_starts_is_made_again_from_the_round_that_made_it(
    store: RedisRoundStore, tmp_path: Path, change: str
) -> None:
    versions, states = trajectory("fedadam", 2)
    async with opened(store, tmp_path, aggregation=FEDADAM) as room:
        async with room.member() as member:
            await contribute(member, 0)
            await member.reaches(1)
        name = await damage(room, change, state=states[0])
        async with room.member() as member:
            await member.join("somebody")  # attended from now on
            await member.leave("somebody")
            await member.reaches(1)
            assert await room.blobs.read(name) == states[0]
            await contribute(member, 1)
            await member.reaches(2)
            assert await member.version() == (2, versions[1])


async def test_a_task_that_asks_for_the_mean_keeps_no_state(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room, room.member() as member:
        await contribute(member, 0)
        await member.reaches(1)
        assert await room.blobs.list(names.rule_states(TASK)) == []
        entry = await records.read_ledger_entry(room.blobs, TASK, 1)
        assert (entry.rule, entry.state_digest) == ("mean", "")


async def test_a_rollback_lets_the_optimizer_begin_anew(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path, aggregation=FEDADAM) as room, room.member() as member:
        await contribute(member, 0)
        await member.reaches(1)
        await member.stub.RollBack(aggregator_service_pb2.RollBackRequest(task_id=TASK, version=0, request_id="back"))
        await contribute(member, 2)
        await member.reaches(3)
        anew = PlainModel("fedadam", floats(octets(BASE)))
        assert await member.version() == (3, anew.step(quotients(octets(BASE), 2)))
        assert await state_of(room, 3) == anew.state()
