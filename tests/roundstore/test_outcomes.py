"""Both stores come to each outcome alike, in a history that was made to lead to it.

The drawn histories of `test_histories` meet most of these, but none of them for certain.
"""

from __future__ import annotations

import pytest
import redis.asyncio

from tests.roundstore.test_histories import (
    PARTICIPANTS,
    REPLICAS,
    Commit,
    Event,
    FinishClosing,
    Join,
    Leave,
    LoseContributions,
    LoseVersion,
    Pair,
    StartClosing,
    StartRestoring,
    Wipe,
)

JOINED = Join((PARTICIPANTS[0], PARTICIPANTS[1]), 2.5)
COMMITTED = Commit(REPLICAS[0], ((PARTICIPANTS[0], "aa", 1), (PARTICIPANTS[1], "bb", 2)), True, 0)
OTHERWISE = Commit(REPLICAS[1], ((PARTICIPANTS[0], "bb", 1),), True, 0)
STARTED = StartClosing(REPLICAS[0], 2.5, True, 0)
CLOSING = (JOINED, COMMITTED, STARTED)
CLOSED = (*CLOSING, FinishClosing(True, 0))

DIRECTED: dict[str, list[tuple[str, tuple[Event, ...]]]] = {
    "commit": [
        ("tuple", (JOINED, COMMITTED)),
        ("dict", (JOINED, COMMITTED, OTHERWISE)),
        ("dict", (Commit(REPLICAS[0], ((PARTICIPANTS[0], "aa", 3), (PARTICIPANTS[1], "aa", 2)), True, 0),)),
        ("RoundMoved", (Commit(REPLICAS[0], COMMITTED.members, True, 1),)),
        ("RoundMoved", (Commit(REPLICAS[0], COMMITTED.members, False, 0),)),
        ("RoundMoved", (*CLOSING, OTHERWISE)),
    ],
    "start": [
        ("ClosingRound", CLOSING),
        ("NotDue", (StartClosing(REPLICAS[0], 2.5, True, 1),)),
        ("NotDue", (*CLOSING, StartClosing(REPLICAS[1], 2.5, True, 0))),
    ],
    "finish": [("RoundStatus", CLOSED), ("RoundMoved", (*CLOSING, FinishClosing(True, -1)))],
    "lose contributions": [
        ("RoundStatus", (*CLOSING, LoseContributions(frozenset(PARTICIPANTS[:1]), True, 0))),
        ("RoundStatus", (*CLOSING, LoseContributions(frozenset(PARTICIPANTS[:2]), True, 0))),
        ("RoundMoved", (*CLOSING, LoseContributions(frozenset(PARTICIPANTS[:1]), True, 1))),
    ],
    "lose version": [
        ("RoundStatus", (JOINED, COMMITTED, LoseVersion(True, 0))),
        ("RoundStatus", (*CLOSED, LoseVersion(True, 0))),
        ("RoundStatus", (*CLOSED, Leave(PARTICIPANTS[1]), OTHERWISE, LoseVersion(True, 0))),
        ("RoundMoved", (LoseVersion(True, 1),)),
        ("RoundMoved", (LoseVersion(False, 0),)),
    ],
    "restore": [
        ("RoundStatus", (JOINED, COMMITTED, StartRestoring(REPLICAS[0], 2.5, True, 0))),
        ("NotDue", (*CLOSING, StartRestoring(REPLICAS[0], 2.5, True, 0))),
    ],
}
"""What leads to each outcome: the last event of a history is answered so."""


@pytest.mark.parametrize(
    ("what", "kind", "history"),
    [
        pytest.param(what, kind, history, id=f"{what}-{kind}")
        for what, cases in DIRECTED.items()
        for kind, history in cases
    ],
)
async def test_both_stores_come_to_every_outcome(
    redis_client: redis.asyncio.Redis, what: str, kind: str, history: tuple[Event, ...]
) -> None:
    pair = Pair(redis_client)
    await pair.begin()
    for event in history[:-1]:
        await pair.play(event)
    before = pair.seen[f"{what}: {kind}"]
    await pair.play(history[-1])
    assert pair.seen[f"{what}: {kind}"] == before + 1


async def test_both_stores_refuse_what_was_meant_for_a_round_that_was_wiped(redis_client: redis.asyncio.Redis) -> None:
    pair = Pair(redis_client)
    await pair.begin()
    await pair.play(COMMITTED)
    await pair.play(Wipe())
    assert pair.seen["commit: RoundMoved"] == 1
