"""Tasks that ask for differential privacy are created where their budget can be kept, and nowhere else."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from blobstore import records
from blobstore.directory import DirectoryBlobStore
from learning.aggregation import Aggregation
from learning.ids import TaskId
from learning.privacy import CentralPrivacy
from learning.refusals import InvalidTask, PrivacyNotAccounted
from learning.task import Task
from rpc.task_messages import task_from_proto, task_to_proto
from services.task_service.catalog import Catalog
from services.task_service.default_tasks import DEFAULT_TASKS

PRIVACY = CentralPrivacy(clipping_norm=0.5, noise_multiplier=2.0, delta=1e-5, epsilon_budget=2.0)


def a_task(**changes: float) -> Task:
    privacy = replace(PRIVACY, **changes)
    return replace(DEFAULT_TASKS["titanic"]().task, task_id=TaskId("private"), aggregation=Aggregation(privacy=privacy))


async def create(blobs: DirectoryBlobStore, task: Task) -> None:
    default = DEFAULT_TASKS["titanic"]()
    offered = records.Model(default.kind, default.topology_json, ())
    await Catalog(blobs, max_bytes=1 << 20).create(task, offered, None, request_id="", now=1.0)


async def test_a_budget_that_one_version_fits_is_taken_and_kept(tmp_path: Path) -> None:
    async with DirectoryBlobStore(tmp_path) as blobs:
        await create(blobs, a_task())
        record = await records.read_task(blobs, TaskId("private"))
        assert (record.task.aggregation, record.privacy) == (Aggregation(privacy=PRIVACY), None)


@pytest.mark.parametrize("change", [{"epsilon_budget": 1.9}, {"noise_multiplier": 1.9}, {"delta": 1e-6}])
async def test_one_that_none_fits_is_refused_and_nothing_is_written(tmp_path: Path, change: dict[str, float]) -> None:
    async with DirectoryBlobStore(tmp_path) as blobs:
        with pytest.raises(InvalidTask) as refused:
            await create(blobs, a_task(**change))
        assert refused.value.variables["field"] == "aggregation.privacy.epsilon_budget"
        assert await records.list_tasks(blobs) == []


async def test_without_the_library_the_refusal_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    async with DirectoryBlobStore(tmp_path) as blobs:
        with pytest.raises(PrivacyNotAccounted, match=r"Install disco-server\[privacy\]"):
            await create(blobs, a_task())
        assert await records.list_tasks(blobs) == []


def test_it_travels_over_grpc_and_a_message_without_its_numbers_is_refused() -> None:
    message = task_to_proto(a_task())
    assert message.aggregation.privacy.noise_multiplier == 2.0
    assert task_from_proto(message) == a_task()
    message.aggregation.privacy.Clear()
    message.aggregation.privacy.SetInParent()
    with pytest.raises(InvalidTask) as refused:
        task_from_proto(message)
    assert refused.value.variables["field"] == "aggregation.privacy.clipping_norm"
    message.aggregation.ClearField("privacy")
    assert task_from_proto(message).aggregation == Aggregation()
