"""Names are these, in an order that sorts, and are built of ids only."""

from __future__ import annotations

import pytest

from blobstore import names
from learning.ids import ReplicaId, TaskId
from learning.refusals import InvalidId

TASK = TaskId("titanic")
DIGEST = "0f" * 32


def test_every_name_is_as_the_table_says() -> None:
    assert names.task_record(TASK) == "tasks/titanic/task.json"
    assert names.model(TASK, DIGEST) == f"tasks/titanic/models/{DIGEST}.json"
    assert names.weights(TASK, DIGEST) == f"tasks/titanic/weights/{DIGEST}"
    assert names.versions(TASK) == "tasks/titanic/versions"
    assert names.ledger_entry(TASK, 12) == "tasks/titanic/versions/000000000012.json"
    assert names.sums(TASK) == "sums/titanic"
    assert names.sums_of_round(TASK, 7) == "sums/titanic/000000000007"
    assert names.partial_sum(TASK, 7, ReplicaId("aggregator-1"), 1) == "sums/titanic/000000000007.aggregator-1.1"
    assert names.contributions(TASK) == "contributions/titanic"
    assert names.contribution(TASK, 7, DIGEST) == f"contributions/titanic/000000000007/{DIGEST}"
    assert names.rule_states(TASK) == "states/titanic"
    assert names.rule_state(TASK, 7, DIGEST) == f"states/titanic/000000000007/{DIGEST}"


def test_sums_are_ordered_by_their_rounds_those_that_had_folders_too() -> None:
    before = "sums/titanic/000000000006/aggregator-1.1"
    sums = [names.partial_sum(TASK, number, ReplicaId("aggregator-1"), 0) for number in (6, 7, 10)]
    assert sums == sorted(sums)
    assert max(before, sums[0]) < names.sums_of_round(TASK, 7) < sums[1]


def test_the_order_of_names_is_the_order_of_numbers() -> None:
    numbers = [0, 1, 9, 10, 99, 100, 10**11]
    entries = [names.ledger_entry(TASK, number) for number in numbers]
    assert entries == sorted(entries)


@pytest.mark.parametrize("bad", ["", "..", "a/b", "~", "a b"])
def test_no_name_is_built_of_what_is_no_id(bad: str) -> None:
    for build in (names.task_record, names.versions, names.sums):
        with pytest.raises(InvalidId):
            build(TaskId(bad))
    with pytest.raises(InvalidId):
        names.model(TaskId(bad), DIGEST)
    with pytest.raises(InvalidId):
        names.weights(TaskId(bad), DIGEST)
    with pytest.raises(InvalidId):
        names.partial_sum(TASK, 7, ReplicaId(bad), 0)
