"""Keys are these, and docs/redis.md describes each of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from learning.ids import PeerId, ReplicaId, TaskId
from learning.refusals import InvalidId
from roundstore import redis_keys

TASK = TaskId("titanic")
DOCS = Path(__file__).parents[2] / "docs" / "redis.md"


def test_the_keys_of_a_task_share_a_hash_tag() -> None:
    assert redis_keys.of_task(TASK) == redis_keys.RoundKeys(
        round="disco:{titanic}:round",
        leases="disco:{titanic}:leases",
        absent="disco:{titanic}:absent",
        admissions="disco:{titanic}:admissions",
        sums="disco:{titanic}:sums",
    )
    assert redis_keys.closed_admissions(TASK, 12) == "disco:{titanic}:admissions:12"
    assert redis_keys.closed_sums(TASK, 12) == "disco:{titanic}:sums:12"
    assert redis_keys.metadata_rounds(TASK, "loss") == "disco:{titanic}:metadata:loss"
    assert redis_keys.metadata(TASK, "loss", 3) == "disco:{titanic}:metadata:loss:3"
    assert redis_keys.peers(TASK) == "disco:{titanic}:peers"
    assert redis_keys.held_signals(TASK, PeerId("17")) == "disco:{titanic}:held:17"
    assert redis_keys.signals_channel(ReplicaId("signaling-1")) == "disco:signals:signaling-1"


@pytest.mark.parametrize("task_id", ["", "a}b", "a:b", "{", "..", "a b", "ä", "x" * 129])
def test_no_key_is_built_of_what_is_no_id(task_id: str) -> None:
    with pytest.raises(InvalidId):
        redis_keys.of_task(TaskId(task_id))
    with pytest.raises(InvalidId):
        redis_keys.metadata_rounds(TASK, task_id)


def keys_of_the_docstring() -> dict[str, str]:
    lines = re.findall(r"^    (disco:\S+) +(\S+)", redis_keys.__doc__ or "", re.MULTILINE)
    return dict(lines)


def keys_of_the_docs() -> dict[str, str]:
    rows = re.findall(r"^\| `(disco:[^`]+)` \| (\S+) \|", DOCS.read_text(), re.MULTILINE)
    return dict(rows)


def test_the_docs_describe_every_key_with_its_type() -> None:
    assert keys_of_the_docs() == keys_of_the_docstring()


def test_the_docs_say_how_long_each_key_lives() -> None:
    text = DOCS.read_text()
    for seconds, told in (
        (redis_keys.CLOSED_ROUND_TTL_S, "2 hours"),
        (redis_keys.METADATA_TTL_S, "25 hours"),
        (redis_keys.PEERS_TTL_S, "7 days"),
        (redis_keys.HELD_SIGNALS_TTL_S, "15 seconds"),
    ):
        number, unit = told.split()
        assert seconds == int(number) * {"seconds": 1, "hours": 3600, "days": 86400}[unit]
        assert f"| {told} |" in text


def test_every_key_that_is_built_is_in_the_docstring() -> None:
    built = {
        redis_keys.OPEN_TASKS,
        redis_keys.CHANNEL,
        redis_keys.TASKS_CHANNEL,
        redis_keys.PEER_IDS,
        redis_keys.PEERS_CHANNEL,
        redis_keys.signals_channel(ReplicaId("<replica>".strip("<>"))),
        redis_keys.held_signals(TASK, PeerId("peer")),
        redis_keys.peers(TASK),
        redis_keys.metadata_rounds(TASK, "key"),
        redis_keys.metadata(TASK, "key", 3),
        redis_keys.closed_admissions(TASK, 7),
        redis_keys.closed_sums(TASK, 7),
        redis_keys.lost(TASK, 7),
        redis_keys.norms(TASK),
        redis_keys.refusals(TASK),
        redis_keys.connections(TASK),
        *(getattr(redis_keys.of_task(TASK), field) for field in redis_keys.RoundKeys.__dataclass_fields__),
    }
    examples = {"<task>": "titanic", "<number>": "7", "<round>": "3", "<replica>": "replica", "<peer>": "peer"}
    told = set()
    for name in keys_of_the_docstring():
        for blank, example in {**examples, "<key>": "key"}.items():
            name = name.replace(blank, example)
        told.add(name)
    assert told == built
