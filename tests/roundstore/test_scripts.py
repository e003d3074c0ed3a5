"""Every script keeps to its header, gives every reply code that it names, and reaches a Redis that lost it."""

from __future__ import annotations

from importlib import resources

import pytest
import redis.asyncio

from learning.ids import PeerId, TaskId
from learning.policy import Policy
from roundstore import redis_fields, redis_keys
from roundstore.redis_store import Code
from roundstore.script_connections import ScriptConnections
from roundstore.scripts import Argument, Reply, Script

LUA = resources.files("roundstore") / "lua"
NAMES = sorted(file.name.removesuffix(".lua") for file in LUA.iterdir())
HELD = redis_keys.held_signals(TaskId("task"), PeerId("peer"))
KEYS = redis_keys.of_task(TaskId("task"))
STATUS_KEYS = [KEYS.round, KEYS.leases, KEYS.absent]
CLOSED = [redis_keys.closed_admissions(TaskId("task"), 7), redis_keys.closed_sums(TaskId("task"), 7)]
LOST = redis_keys.lost(TaskId("task"), 7)
NORMS, REFUSALS = redis_keys.norms(TaskId("task")), redis_keys.refusals(TaskId("task"))
CONNECTIONS = redis_keys.connections(TaskId("task"))
HINT: list[Argument] = [redis_keys.CHANNEL, "task"]
GROUP: list[Argument] = ["alice", "a1", 7, 4, "0.5"]

ALL_KEYS = {
    "open_round": [*STATUS_KEYS, KEYS.admissions, KEYS.sums, CONNECTIONS],
    "read_status": STATUS_KEYS,
    "join_round": [*STATUS_KEYS, CONNECTIONS],
    "leave_round": [*STATUS_KEYS, KEYS.admissions, CONNECTIONS],
    "expire_leases": [*STATUS_KEYS, KEYS.admissions, CONNECTIONS],
    "commit_group": [*STATUS_KEYS, KEYS.admissions, KEYS.sums, NORMS],
    "start_closing": [*STATUS_KEYS, KEYS.admissions, KEYS.sums, LOST],
    "start_restoring": STATUS_KEYS,
    "read_closing": [*STATUS_KEYS, KEYS.admissions, KEYS.sums, LOST],
    "finish_closing": [*STATUS_KEYS, KEYS.admissions, KEYS.sums, *CLOSED, LOST],
    "lose_contributions": [*STATUS_KEYS, KEYS.admissions, KEYS.sums, LOST],
    "lose_version": [*STATUS_KEYS, KEYS.admissions, KEYS.sums, LOST, *CLOSED],
    "set_policy": STATUS_KEYS,
    "drop_round": [*STATUS_KEYS, KEYS.admissions, KEYS.sums, LOST, NORMS, REFUSALS, CONNECTIONS],
    "swap_peers": [redis_keys.peers(TaskId("task"))],
    "hold_signal": [HELD],
    "count_peer": [redis_keys.PEER_IDS],
}
NEW_ROUND = [word for pair in redis_fields.new_round("e", 7, Policy()).items() for word in pair]
NEW_POLICY = [word for pair in redis_fields.from_policy(Policy(deadline_s=3.0)).items() for word in pair]

OPEN: tuple[str, list[Argument]] = ("open_round", [*HINT, *NEW_ROUND])
JOIN: tuple[str, list[Argument]] = ("join_round", [*HINT, "10.0", "", "alice", "bob"])
COMMIT: tuple[str, list[Argument]] = ("commit_group", [*HINT, "e", 7, "replica", "pointer", "2.0", 256, *GROUP])
START: tuple[str, list[Argument]] = ("start_closing", [*HINT, "e", 7, "replica", "30.0", "20.0"])
RESTORE: tuple[str, list[Argument]] = ("start_restoring", [*HINT, "e", 7, "replica", "30.0", 3, "r1", "20.0"])
FINISH: tuple[str, list[Argument]] = ("finish_closing", [*HINT, "e", 7, 60, "", ""])
LOSE: tuple[str, list[Argument]] = ("lose_contributions", [*HINT, "e", 7, 2, "f", "lost", "alice", ""])
SWAP: tuple[str, list[Argument]] = ("swap_peers", ["channel", "hint", 0, 1, "body", 60])
HOLD: tuple[str, list[Argument]] = ("hold_signal", ["signal", 1, 60])

HISTORIES: dict[tuple[str, int], list[tuple[str, list[Argument]]]] = {
    ("open_round", 1): [OPEN],
    ("open_round", 0): [OPEN, OPEN],
    ("drop_round", 1): [OPEN, ("drop_round", HINT)],
    ("drop_round", -1): [("drop_round", HINT)],
    ("read_status", 1): [OPEN, ("read_status", [])],
    ("read_status", -1): [("read_status", [])],
    ("join_round", 1): [OPEN, JOIN],
    ("join_round", -1): [JOIN],
    ("leave_round", 1): [OPEN, ("leave_round", [*HINT, "alice", ""])],
    ("leave_round", -1): [("leave_round", [*HINT, "alice", ""])],
    ("expire_leases", 1): [OPEN, ("expire_leases", [*HINT, "10.0"])],
    ("expire_leases", -1): [("expire_leases", [*HINT, "10.0"])],
    ("commit_group", 1): [OPEN, COMMIT],
    ("commit_group", -2): [COMMIT],
    ("commit_group", -3): [OPEN, COMMIT, COMMIT],
    ("start_closing", 1): [OPEN, COMMIT, START],
    ("start_closing", -4): [OPEN, COMMIT, START, START],
    ("start_restoring", 1): [OPEN, RESTORE],
    ("start_restoring", -4): [OPEN, RESTORE, RESTORE],
    ("read_closing", 1): [OPEN, COMMIT, START, ("read_closing", ["e", 7, "aggregating"])],
    ("read_closing", -2): [OPEN, COMMIT, ("read_closing", ["e", 7, "aggregating"])],
    ("finish_closing", 1): [OPEN, COMMIT, START, FINISH],
    ("finish_closing", -2): [OPEN, COMMIT, START, FINISH, FINISH],
    ("lose_contributions", 1): [OPEN, COMMIT, START, LOSE],
    ("lose_contributions", -2): [OPEN, COMMIT, START, LOSE, LOSE],
    ("lose_version", 1): [OPEN, COMMIT, ("lose_version", [*HINT, "e", 7, "f"])],
    ("lose_version", -2): [OPEN, COMMIT, ("lose_version", [*HINT, "e", 6, "f"])],
    ("set_policy", 1): [OPEN, ("set_policy", [*HINT, *NEW_POLICY])],
    ("set_policy", -1): [("set_policy", [*HINT, *NEW_POLICY])],
    ("swap_peers", 1): [SWAP],
    ("swap_peers", -2): [SWAP, SWAP],
    ("hold_signal", 1): [HOLD],
    ("hold_signal", -5): [HOLD, HOLD],
    ("count_peer", 1): [("count_peer", [17])],
}
"""Calls, the last of which gives the code."""


async def called(client: redis.asyncio.Redis, history: list[tuple[str, list[Argument]]]) -> Reply:
    reply: Reply = []
    for name, arguments in history:
        reply = await Script(name)(ScriptConnections(client), keys=ALL_KEYS[name], arguments=arguments)
    return reply


@pytest.mark.parametrize(("name", "code"), HISTORIES)
async def test_a_script_gives_this_code(redis_client: redis.asyncio.Redis, name: str, code: int) -> None:
    assert (await called(redis_client, HISTORIES[name, code]))[0] == code


def test_every_code_of_every_header_is_given_by_a_test() -> None:
    assert set(HISTORIES) == {(name, code) for name in NAMES for code in Script(name).codes}


def test_every_code_of_a_round_has_a_name() -> None:
    of_peers = ("swap_peers", "hold_signal", "count_peer")
    assert {code for name, code in HISTORIES if name not in of_peers} == set(Code)


async def test_a_script_that_redis_lost_is_sent_again(redis_client: redis.asyncio.Redis) -> None:
    await called(redis_client, [OPEN])
    await redis_client.script_flush()
    assert (await called(redis_client, [OPEN]))[0] == 0
    assert await redis_client.script_exists(Script("open_round").digest) == [True]


@pytest.mark.parametrize("name", NAMES)
def test_a_script_reads_like_its_header(name: str) -> None:
    script, lines = Script(name), (LUA / f"{name}.lua").read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith("-- ")
    assert lines[0].endswith(".")
    assert script.keys == len(ALL_KEYS[name])
    code = [line for line in lines if not line.startswith("--")]
    # Keys and arguments are given names at once; a number stands for one nowhere else, but for those that repeat.
    assert code[0].startswith("local ")
    assert "KEYS" in code[0]
    assert not any("KEYS[" in line or "(KEYS" in line for line in code[1:])
    assert not any("ARGV[" in line and not script.repeated for line in code[2:])


@pytest.mark.parametrize(
    ("name", "keys", "arguments"),
    [
        ("leave_round", 4, 4),
        ("leave_round", 6, 4),
        ("leave_round", 5, 3),
        ("leave_round", 5, 5),
        ("commit_group", 5, 13),
        ("commit_group", 6, 7),
        ("commit_group", 6, 12),
        ("commit_group", 6, 14),
    ],
)
async def test_another_number_of_keys_or_arguments_is_a_bug(
    redis_client: redis.asyncio.Redis, name: str, keys: int, arguments: int
) -> None:
    with pytest.raises(AssertionError, match=rf"{name}\.lua takes "):
        await Script(name)(ScriptConnections(redis_client), keys=["key"] * keys, arguments=["1"] * arguments)
    assert await redis_client.keys() == []


async def test_a_code_that_the_header_does_not_name_is_a_bug(redis_client: redis.asyncio.Redis) -> None:
    script = Script("hold_signal")
    script.codes = frozenset({-5})
    with pytest.raises(AssertionError, match=r"hold_signal\.lua returned 1, which its header does not know"):
        await script(ScriptConnections(redis_client), keys=[HELD], arguments=HOLD[1])


async def test_a_wrong_value_goes_up_as_the_bug_it_is(redis_client: redis.asyncio.Redis) -> None:
    await redis_client.hset(KEYS.round, "epoch", "e")
    await redis_client.set(KEYS.leases, "not a sorted set")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await called(redis_client, [JOIN])
