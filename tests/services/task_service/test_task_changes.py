"""What becomes of a task that exists, over real gRPC: two replicas on one directory, hints through a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
import pytest_asyncio
import redis.asyncio
from disco.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

from blobstore import names, task_updates
from blobstore.directory import DirectoryBlobStore
from learning.aggregation import Aggregation, AggregationRule
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import (
    InvalidTask,
    MalformedMessage,
    QuotaExceeded,
    TaskAlreadyExists,
    TaskChanged,
    TaskDeleted,
    TaskFieldFixed,
    TaskNotFound,
)
from learning.task import Scheme, Task
from roundstore.redis_settings import connect as connect_redis
from roundstore.task_hints import RedisTaskHints
from rpc.task_messages import task_from_proto, task_to_proto
from services.task_service.catalog import Catalog
from services.task_service.leftovers import QUIET_S, Leftovers
from services.task_service.quotas import Quotas
from services.task_service.task_changes import FREE, TaskChanges
from tests.redis_process import RedisProcess
from tests.services.task_service.replicas import LIMIT, replica
from tests.services.task_service.tasks import SPECS, model, task
from tests.waiting import eventually

if TYPE_CHECKING:
    Stub = task_service_pb2_grpc.TaskServiceAsyncStub
pb = task_service_pb2
SMALL = TaskId("small")
WEIGHTS = np.arange(6, dtype="<f4").tobytes()


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


@pytest_asyncio.fixture
async def replicas(store: DirectoryBlobStore, redis_client: redis.asyncio.Redis) -> AsyncIterator[tuple[Stub, Stub]]:
    async with AsyncExitStack() as stack:
        hints = RedisTaskHints(redis_client)
        one = await stack.enter_async_context(replica(store, hints))
        yield one, await stack.enter_async_context(replica(store, hints))


def _messages(task_id: str, weights: bytes, request_id: str) -> Iterator[pb.CreateTaskRequest]:
    offered = model(*SPECS)
    yield pb.CreateTaskRequest(
        header=pb.CreateTaskRequest.Header(
            task=task_to_proto(replace(task(), task_id=TaskId(task_id))),
            model=task_pb2.Model(
                kind=task_pb2.Model.KIND_TFJS,
                topology_json=offered.topology_json.encode(),
                weight_specs=[task_pb2.WeightSpec(name=spec.name, shape=spec.shape) for spec in offered.weight_specs],
            ),
            weights_size=len(weights),
            request_id=request_id,
        )
    )
    yield pb.CreateTaskRequest(weights_chunk=weights)


async def _create(
    stub: Stub, task_id: str = "small", *, weights: bytes = WEIGHTS, request_id: str = ""
) -> task_pb2.Task:
    return (await stub.CreateTask(_messages(task_id, weights, request_id), timeout=20)).task


async def _update(stub: Stub, changed: Task, *, revision: int = 0, request_id: str = "") -> task_pb2.Task:
    message = task_to_proto(changed)
    message.revision = revision
    return (await stub.UpdateTask(pb.UpdateTaskRequest(task=message, request_id=request_id), timeout=20)).task


async def _get(stub: Stub, task_id: str = "small") -> task_pb2.Task:
    return (await stub.GetTask(pb.GetTaskRequest(task_id=task_id), timeout=20)).task


async def _delete(stub: Stub, *, revision: int = 0, request_id: str = "") -> None:
    await stub.DeleteTask(pb.DeleteTaskRequest(task_id="small", revision=revision, request_id=request_id), timeout=20)


def _titled(title: str) -> Task:
    return replace(task(), display=replace(task().display, title=title))


# Updates


async def test_an_update_holds_at_every_replica_at_once(replicas: tuple[Stub, Stub]) -> None:
    one, two = replicas
    assert (await _create(one)).revision == 1
    updated = await _update(one, _titled("Better"), revision=1)
    assert updated.revision == 2
    assert updated.create_time.ToNanoseconds() == 1_700_000_000_250_000_000
    assert await _get(two) == updated
    assert task_from_proto(updated) == _titled("Better")
    assert list((await two.ListTasks(pb.ListTasksRequest(), timeout=20)).tasks) == [updated]


async def test_of_updates_that_expect_one_revision_exactly_one_is_made(replicas: tuple[Stub, Stub]) -> None:
    # What should happen: one wins; each other is told the revision that there is now.
    await _create(replicas[0])
    asked = [_update(replicas[number % 2], _titled(f"by {number}"), revision=1) for number in range(8)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    [won] = [answer for answer in answers if isinstance(answer, task_pb2.Task)]
    lost = [answer for answer in answers if isinstance(answer, TaskChanged)]
    assert len(lost) == 7
    assert lost[0].variables == {"task_id": "small", "expected": "1", "revision": "2"}
    assert await _get(replicas[1]) == won


async def test_updates_that_expect_nothing_are_all_made(replicas: tuple[Stub, Stub]) -> None:
    await _create(replicas[0])
    await asyncio.gather(*(_update(replicas[number % 2], _titled(f"by {number}")) for number in range(4)))
    assert (await _get(replicas[0])).revision == 5


async def test_the_same_request_updates_once(replicas: tuple[Stub, Stub]) -> None:
    one, two = replicas
    await _create(one)
    first = await _update(one, _titled("a"), revision=1, request_id="r")
    later = await _update(one, _titled("b"), revision=2)
    assert await _update(two, _titled("a"), revision=1, request_id="r") == first
    assert await _get(two) == later
    with pytest.raises(MalformedMessage):
        await _update(two, _titled("c"), request_id="r")
    with pytest.raises(InvalidTask) as refused:
        await _update(two, _titled("c"), request_id="r" * 129)
    assert refused.value.variables["field"] == "request_id"


async def test_an_update_that_changes_nothing_makes_no_revision(replicas: tuple[Stub, Stub]) -> None:
    created = await _create(replicas[0])
    assert await _update(replicas[0], task()) == created


async def test_every_field_that_is_free_can_be_updated(replicas: tuple[Stub, Stub]) -> None:
    await _create(replicas[0])
    training = replace(
        task().training,
        epochs=12,
        batch_size=7,
        validation_split=0.25,
        round_duration_batches=3,
        round_duration_epochs=4,
    )
    wanted = replace(_titled("All of it"), training=training, pinned_dialect="g22")
    assert task_from_proto(await _update(replicas[0], wanted)) == wanted
    assert {path.removeprefix("training.") for path in FREE} == {
        "pinned_dialect",
        "epochs",
        "batch_size",
        "validation_split",
        "round_duration_batches",
        "round_duration_epochs",
    }


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("scheme", replace(task(), scheme=Scheme.DECENTRALIZED)),
        ("policy", replace(task(), policy=Policy(min_participants=7))),
        ("aggregation", replace(task(), aggregation=Aggregation(AggregationRule.MEDIAN))),
        ("training.labels", replace(task(), training=replace(task().training, labels=("a", "b")))),
        ("training.optimizer", replace(task(), training=replace(task().training, optimizer="adam"))),
        ("training.learning_rate", replace(task(), training=replace(task().training, learning_rate=0.5))),
        ("training.noise_scale", replace(task(), training=replace(task().training, noise_scale=0.5))),
        ("training.tensor_backend", replace(task(), training=replace(task().training, tensor_backend="gpt"))),
    ],
)
async def test_what_decides_the_round_stays_and_the_refusal_names_the_field(
    replicas: tuple[Stub, Stub], field: str, changed: Task
) -> None:
    created = await _create(replicas[0])
    changed = replace(changed, display=replace(changed.display, title="And a free one"))
    with pytest.raises(TaskFieldFixed) as refused:
        await _update(replicas[0], changed)
    assert refused.value.variables["field"] == field
    cause = refused.value.__cause__
    assert isinstance(cause, grpc.aio.AioRpcError)
    assert cause.code() is grpc.StatusCode.FAILED_PRECONDITION
    details = status_pb2.Status.FromString(
        next(value for key, value in cause.trailing_metadata() if key == "grpc-status-details-bin")
    ).details
    violations = error_details_pb2.BadRequest()
    assert details[1].Unpack(violations)
    assert violations.field_violations[0].field == field
    assert await _get(replicas[1]) == created


async def test_a_policy_that_is_left_out_stays(replicas: tuple[Stub, Stub]) -> None:
    created = await _create(replicas[0])
    message = task_to_proto(_titled("Without"))
    message.ClearField("policy")
    message.ClearField("aggregation")
    updated = (await replicas[0].UpdateTask(pb.UpdateTaskRequest(task=message), timeout=20)).task
    assert updated.policy == created.policy
    assert updated.display.title == "Without"


async def test_a_task_that_is_not_there_cannot_be_updated(replicas: tuple[Stub, Stub]) -> None:
    with pytest.raises(TaskNotFound):
        await _update(replicas[0], task())


# Deletion


async def test_a_deleted_task_is_gone_everywhere_and_its_id_is_not_used_again(
    replicas: tuple[Stub, Stub], store: DirectoryBlobStore
) -> None:
    # What should happen: whatever asks for it is told that it is not there; its bytes are deleted.
    one, two = replicas
    await _create(one, request_id="made")
    await _create(one, "other")
    await store.write(names.sums_of_round(SMALL, 0) + "/replica.0", [b"sum"])
    await _update(two, _titled("two"))
    await _delete(one)
    with pytest.raises(TaskNotFound):
        await _get(two)
    with pytest.raises(TaskNotFound):
        await _update(two, task())
    with pytest.raises(TaskNotFound):
        await _delete(two)
    assert [task.task_id for task in (await two.ListTasks(pb.ListTasksRequest(), timeout=20)).tasks] == ["other"]
    for request_id in ("", "made"):
        with pytest.raises(TaskDeleted) as refused:
            await _create(two, request_id=request_id)
        assert refused.value.variables == {"task_id": "small"}

    async def is_forgotten() -> bool:
        return [name for name in await store.list("") if "small" in name] == [names.deletion(SMALL)]

    await eventually(is_forgotten)


async def test_the_same_request_deletes_once(replicas: tuple[Stub, Stub]) -> None:
    await _create(replicas[0])
    await _delete(replicas[0], request_id="r")
    await _delete(replicas[1], request_id="r")
    with pytest.raises(TaskNotFound):
        await _delete(replicas[1], request_id="other")


async def test_a_task_that_was_updated_since_is_not_deleted(replicas: tuple[Stub, Stub]) -> None:
    await _create(replicas[0])
    await _update(replicas[0], _titled("two"))
    with pytest.raises(TaskChanged):
        await _delete(replicas[1], revision=1)
    await _delete(replicas[1], revision=2)


async def test_a_fork_outlives_the_task_that_it_began_with(replicas: tuple[Stub, Stub]) -> None:
    await _create(replicas[0])
    await _update(replicas[0], _titled("Renamed"))
    forked = await replicas[0].ForkTask(pb.ForkTaskRequest(source_task_id="small", task_id="fork"), timeout=20)
    assert forked.task.display.title == "Renamed"
    await _delete(replicas[1])
    call = replicas[1].DownloadModel(pb.DownloadModelRequest(task_id="fork"), timeout=20)
    parts = [message async for message in call]
    assert b"".join(part.weights_chunk for part in parts[1:]) == WEIGHTS


async def test_a_creation_at_the_moment_of_a_deletion_is_undone(store: DirectoryBlobStore, tmp_path: Path) -> None:
    # What should happen: the deletion that was written after the creation looked for one is found behind the record.
    class DeletedMeanwhile(DirectoryBlobStore):
        async def write(self, name: str, parts: object, *, replace: bool = True) -> None:
            if name == names.task_record(SMALL):
                await super().write(names.deletion(SMALL), [b"{}"])
            await super().write(name, parts, replace=replace)  # type: ignore[arg-type]

    meanwhile = DeletedMeanwhile(tmp_path)
    with pytest.raises(TaskDeleted):
        await Catalog(meanwhile, max_bytes=LIMIT).create(task(), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    await meanwhile.close()
    assert await store.list("") == [names.deletion(SMALL)]


async def test_what_a_deleted_task_gains_later_is_deleted_for_an_hour(store: DirectoryBlobStore) -> None:
    # What should happen: a version that an aggregator was about to write goes, too; after an hour nobody looks again.
    late, now = names.ledger_entry(SMALL, 1), [1000.0]
    await Catalog(store, max_bytes=LIMIT).create(task(), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    await task_updates.delete(store, SMALL, request_id="", now=now[0])
    leftovers = Leftovers(store, clock=lambda: now[0])
    await leftovers.sweep()
    await store.write(late, [b"{}"])
    await leftovers.sweep()
    assert await store.list("") == [names.deletion(SMALL)]
    now[0] += QUIET_S + 1
    await leftovers.sweep()
    await store.write(late, [b"{}"])
    await leftovers.sweep()
    assert late in await store.list("")
    await Leftovers(store, clock=lambda: now[0]).sweep()  # a process that starts looks once
    assert await store.list("") == [names.deletion(SMALL)]


async def test_a_default_task_that_was_deleted_stays_deleted(store: DirectoryBlobStore) -> None:
    catalog = Catalog(store, max_bytes=LIMIT)
    await catalog.add_default_tasks(["titanic"], now=1.0)
    await TaskChanges(store).delete(TaskId("titanic"), expected=0, request_id="", now=2.0)
    await Catalog(store, max_bytes=LIMIT).add_default_tasks(["titanic"], now=3.0)
    assert await catalog.page(size=0, after="") == ([], "")


# Watching


async def _next(stream: AsyncIterator[pb.WatchTasksResponse]) -> tuple[str, object]:
    async with asyncio.timeout(20):
        message = await anext(stream)
    event = message.WhichOneof("event")
    assert event is not None
    return event, getattr(message, event)


async def test_a_watcher_gets_a_snapshot_and_then_what_other_replicas_change(replicas: tuple[Stub, Stub]) -> None:
    one, two = replicas
    first = await _create(one, "a")
    watching = two.WatchTasks(pb.WatchTasksRequest(), timeout=60)
    stream = aiter(watching)
    assert await _next(stream) == ("present", first)
    assert await _next(stream) == ("snapshot_complete", True)
    created = await _create(one)
    assert await _next(stream) == ("created", created)
    updated = await _update(one, _titled("two"))
    assert await _next(stream) == ("updated", updated)
    await _delete(one)
    assert await _next(stream) == ("deleted_task_id", "small")
    watching.cancel()


async def test_a_watcher_hears_of_changes_without_redis_too(store: DirectoryBlobStore, own_redis: RedisProcess) -> None:
    # What should happen: tasks are created as ever; a watcher at another replica hears of them when it looks again.
    async with connect_redis(own_redis.url) as client, AsyncExitStack() as stack:
        hints = RedisTaskHints(client)
        own_redis.kill()
        one = await stack.enter_async_context(replica(store, hints))
        two = await stack.enter_async_context(replica(store, hints, look_again_s=0.05))
        stream = aiter(two.WatchTasks(pb.WatchTasksRequest(), timeout=60))
        assert await _next(stream) == ("snapshot_complete", True)
        created = await _create(one)
        assert await _next(stream) == ("created", created)


async def test_a_damaged_record_is_neither_new_nor_gone_to_a_watcher(
    replicas: tuple[Stub, Stub], store: DirectoryBlobStore
) -> None:
    one, two = replicas
    first = await _create(one, "a")
    stream = aiter(two.WatchTasks(pb.WatchTasksRequest(), timeout=60))
    assert await _next(stream) == ("present", first)
    assert await _next(stream) == ("snapshot_complete", True)
    record = await store.read(names.task_record(TaskId("a")))
    await store.write(names.task_record(TaskId("a")), [b"{"])
    second = await _create(one, "b")
    assert await _next(stream) == ("created", second)
    await store.write(names.task_record(TaskId("a")), [record])
    third = await _create(one, "c")
    assert await _next(stream) == ("created", third)


# Limits


async def test_one_task_more_than_the_quota_is_refused_by_name(
    store: DirectoryBlobStore, redis_client: redis.asyncio.Redis
) -> None:
    # What should happen: repeating a request that was answered is no new task; one that is deleted makes room.
    quotas = Quotas(store, max_tasks=2)
    async with replica(store, RedisTaskHints(redis_client), quotas=quotas) as stub:
        await _create(stub, request_id="r")
        await _create(stub, "b")
        assert (await _create(stub, request_id="r")).task_id == "small"
        with pytest.raises(QuotaExceeded) as refused:
            await _create(stub, "c")
        assert refused.value.variables == {"quota": "DISCO_MAX_TASKS", "limit": "2"}
        with pytest.raises(QuotaExceeded):
            await stub.ForkTask(pb.ForkTaskRequest(source_task_id="b", task_id="c"), timeout=20)
        assert all("/c/" not in name for name in await store.list(""))
        await _delete(stub)
        await _create(stub, "c")


async def test_models_that_would_come_to_more_than_the_quota_are_refused(store: DirectoryBlobStore) -> None:
    catalog = Catalog(store, max_bytes=LIMIT, quotas=Quotas(store, max_bytes=2 * len(WEIGHTS) + 1))
    for task_id in ("a", "b"):
        named = replace(task(), task_id=TaskId(task_id))
        await catalog.create(named, model(*SPECS), WEIGHTS, request_id="", now=1.0)
    with pytest.raises(QuotaExceeded) as refused:
        await catalog.create(task(), model(*SPECS), WEIGHTS, request_id="", now=1.0)
    assert refused.value.variables == {"quota": "DISCO_MAX_STORED_BYTES", "limit": "49"}
    await catalog.add_default_tasks(["titanic"], now=1.0)


async def test_of_uploads_of_one_id_at_once_exactly_one_wins_and_the_others_leave_nothing(
    replicas: tuple[Stub, Stub], store: DirectoryBlobStore
) -> None:
    # What should happen: the others are refused by name, whatever they sent; the one that won is whole.
    uploads = [
        _create(replicas[number % 2], weights=np.full(6, number, "<f4").tobytes(), request_id=str(number))
        for number in range(8)
    ]
    answers = await asyncio.gather(*uploads, return_exceptions=True)
    won = [number for number, answer in enumerate(answers) if isinstance(answer, task_pb2.Task)]
    assert len(won) == 1
    assert sum(isinstance(answer, TaskAlreadyExists) for answer in answers) == 7
    version = await Catalog(store, max_bytes=LIMIT).version(SMALL, None)
    chunks = [chunk async for chunk in Catalog(store, max_bytes=LIMIT).weights(version, chunk_size=64)]
    assert b"".join(chunks) == np.full(6, won[0], "<f4").tobytes()
    assert len(await store.list(names.task(SMALL))) == 3
