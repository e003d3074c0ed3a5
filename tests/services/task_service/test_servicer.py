"""Over real gRPC, in one process."""

from __future__ import annotations

import asyncio
import hashlib
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio
from disco.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc

from blobstore import names, records
from blobstore.directory import DirectoryBlobStore
from blobstore.records import LedgerEntry
from learning.ids import TaskId
from learning.limits import MAX_TENSORS
from learning.refusals import (
    DigestMismatch,
    InvalidId,
    InvalidModel,
    InvalidPolicy,
    InvalidTask,
    InvalidWeights,
    MalformedMessage,
    ModelNotSent,
    StoredDataDamaged,
    StreamStalled,
    TaskAlreadyExists,
    TaskNotFound,
    TooLarge,
    VersionNotFound,
    WeightsNotFinite,
)
from roundstore.task_hints import MemoryTaskHints
from rpc.channel import connect
from rpc.server import serve
from rpc.settings import ServerSettings
from rpc.task_messages import task_from_proto, task_to_proto
from services.task_service import servicer as servicer_module
from services.task_service.catalog import Catalog
from services.task_service.leftovers import Leftovers
from services.task_service.servicer import TaskServicer
from services.task_service.task_changes import TaskChanges
from services.task_service.task_news import TaskNews
from tests.services.task_service.tasks import SPECS, model, task
from tests.services.task_service.topologies import dense, sequential, text

WEIGHTS = np.arange(6, dtype="<f4").tobytes()
LIMIT = 8 << 20
Request = task_service_pb2.CreateTaskRequest
if TYPE_CHECKING:
    Stub = task_service_pb2_grpc.TaskServiceAsyncStub


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


@asynccontextmanager
async def _served(store: DirectoryBlobStore, *, idle_timeout: float = 30.0) -> AsyncIterator[Stub]:
    catalog = Catalog(store, max_bytes=LIMIT)
    servicer = TaskServicer(
        catalog,
        changes=TaskChanges(store),
        news=TaskNews(catalog.roster, MemoryTaskHints()),
        leftovers=Leftovers(store, clock=lambda: 1_700_000_000.25),
        clock=lambda: 1_700_000_000.25,
        max_bytes=LIMIT,
        idle_timeout=idle_timeout,
    )
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.create_task(
        serve(
            lambda server: task_service_pb2_grpc.add_TaskServiceServicer_to_server(servicer, server),
            names=["disco.task.v1.TaskService"],
            host="127.0.0.1",
            port=0,
            settings=ServerSettings(),
            ready=port.set_result,
            stop=stop,
        )
    )
    try:
        async with connect(f"127.0.0.1:{await asyncio.wait_for(port, 10)}") as channel:
            yield task_service_pb2_grpc.TaskServiceStub(channel)
    finally:
        stop.set()
        await asyncio.wait_for(serving, 20)


@pytest_asyncio.fixture
async def stub(store: DirectoryBlobStore) -> AsyncIterator[Stub]:
    async with _served(store) as stub:
        yield stub


def _header(
    *, size: int = 0, request_id: str = "", specs: bool = True, task_message: task_pb2.Task | None = None
) -> Request:
    offered = model(*SPECS) if specs else model()
    return Request(
        header=Request.Header(
            task=task_message or task_to_proto(task()),
            model=task_pb2.Model(
                kind=task_pb2.Model.KIND_TFJS,
                topology_json=offered.topology_json.encode(),
                weight_specs=[task_pb2.WeightSpec(name=spec.name, shape=spec.shape) for spec in offered.weight_specs],
            ),
            weights_size=size,
            request_id=request_id,
        )
    )


def _file_header(*, size: int, name: str = "model.h5") -> Request:
    return Request(header=Request.Header(task=task_to_proto(task()), weights_size=size, model_file=name))


def _stream(weights: bytes = WEIGHTS, *, request_id: str = "", chunk: int = 5) -> Iterator[Request]:
    yield _header(size=len(weights), request_id=request_id)
    for start in range(0, len(weights), chunk):
        yield Request(weights_chunk=weights[start : start + chunk])


async def _create(stub: Stub, messages: Iterable[Request]) -> task_service_pb2.CreateTaskResponse:
    return await stub.CreateTask(iter(messages), timeout=20)


async def _download(
    stub: Stub, version: int | None = None
) -> tuple[task_service_pb2.DownloadModelResponse.Header, list[bytes]]:
    call = stub.DownloadModel(task_service_pb2.DownloadModelRequest(task_id="small", version=version), timeout=20)
    messages = [message async for message in call]
    assert [message.WhichOneof("part") for message in messages] == ["header"] + ["weights_chunk"] * (len(messages) - 1)
    return messages[0].header, [message.weights_chunk for message in messages[1:]]


async def test_a_task_is_created_listed_read_and_downloaded(stub: Stub) -> None:
    created = await _create(stub, _stream())
    assert created.weights_sha256 == hashlib.sha256(WEIGHTS).digest()
    assert created.task.create_time.ToNanoseconds() == 1_700_000_000_250_000_000
    assert task_from_proto(created.task) == task()

    listed = await stub.ListTasks(task_service_pb2.ListTasksRequest(), timeout=20)
    assert list(listed.tasks) == [created.task]
    read = await stub.GetTask(task_service_pb2.GetTaskRequest(task_id="small"), timeout=20)
    assert read.task == created.task
    assert [(spec.name, tuple(spec.shape)) for spec in read.model.weight_specs] == [
        (spec.name, spec.shape) for spec in SPECS
    ]
    assert read.model.kind == task_pb2.Model.KIND_TFJS
    assert read.model.topology_json == model().topology_json.encode()
    assert b'"SGD"' in read.model.training_config_json

    header, chunks = await _download(stub)
    assert (header.version, header.weights_size) == (0, len(WEIGHTS))
    assert header.weights_sha256 == created.weights_sha256
    assert header.model == read.model
    assert b"".join(chunks) == WEIGHTS


async def test_without_weights_the_server_initializes_them(stub: Stub) -> None:
    created = await _create(stub, [_header(specs=False)])
    header, chunks = await _download(stub)
    assert hashlib.sha256(b"".join(chunks)).digest() == created.weights_sha256 == header.weights_sha256
    assert np.frombuffer(b"".join(chunks), "<f4")[4:].tolist() == [1, 1]


async def test_a_repeated_request_gets_the_same_answer(stub: Stub) -> None:
    first = await _create(stub, _stream(request_id="r1"))
    assert await _create(stub, _stream(request_id="r1", chunk=24)) == first
    with pytest.raises(TaskAlreadyExists):
        await _create(stub, _stream(request_id="r2"))


async def test_tasks_are_listed_page_by_page(stub: Stub) -> None:
    for task_id in ("b", "a", "c"):
        await _create(stub, [_header(specs=False, task_message=task_to_proto(task(task_id)))])
    first = await stub.ListTasks(task_service_pb2.ListTasksRequest(page_size=2), timeout=20)
    assert [each.task_id for each in first.tasks] == ["a", "b"]
    last = await stub.ListTasks(
        task_service_pb2.ListTasksRequest(page_size=2, page_token=first.next_page_token), timeout=20
    )
    assert [each.task_id for each in last.tasks] == ["c"]
    assert last.next_page_token == ""


async def test_the_newest_version_is_downloaded_in_small_chunks(stub: Stub, store: DirectoryBlobStore) -> None:
    # What should happen: a version that an aggregator published is served from the next call on.
    # What should not happen: chunks larger than 256 KiB, of which many transfers at once hold a handful each.
    count = 150_000
    header = _header(specs=False)
    header.header.model.topology_json = text(sequential(dense("d", count, use_bias=False), shape=[1])).encode()
    await _create(stub, [header])
    weights = np.arange(count, dtype="<f4").tobytes()
    entry = LedgerEntry(1, hashlib.sha256(weights).hexdigest(), base_digest="", create_time=0.0)
    await records.write_version(store, TaskId("small"), weights, entry)

    header, chunks = await _download(stub)
    assert header.version == 1
    assert [len(chunk) for chunk in chunks] == [256 << 10, 256 << 10, 4 * count - (512 << 10)]
    assert b"".join(chunks) == weights
    assert (await _download(stub, 0))[0].version == 0
    with pytest.raises(VersionNotFound):
        await _download(stub, 2)


async def test_damaged_weights_end_the_stream_with_a_fault(stub: Stub, store: DirectoryBlobStore) -> None:
    created = await _create(stub, _stream())
    name = names.weights(TaskId("small"), created.weights_sha256.hex())
    await store.write(name, [WEIGHTS[:-1] + b"\1"])
    with pytest.raises(StoredDataDamaged):
        await _download(stub)


async def test_unknown_tasks_and_bad_ids_are_refused(stub: Stub) -> None:
    with pytest.raises(TaskNotFound):
        await stub.GetTask(task_service_pb2.GetTaskRequest(task_id="gone"), timeout=20)
    with pytest.raises(InvalidId):
        await stub.GetTask(task_service_pb2.GetTaskRequest(task_id="../etc"), timeout=20)
    with pytest.raises(TaskNotFound):
        await _download(stub)
    assert not (await stub.ListTasks(task_service_pb2.ListTasksRequest(page_token="../.."), timeout=20)).tasks


async def test_streams_that_are_not_a_header_and_its_chunks_are_refused(stub: Stub) -> None:
    with pytest.raises(MalformedMessage):
        await _create(stub, [])
    with pytest.raises(MalformedMessage):
        await _create(stub, [Request(weights_chunk=b"1234")])
    with pytest.raises(MalformedMessage):
        await _create(stub, [Request()])
    with pytest.raises(MalformedMessage):
        await _create(stub, [_header(size=24), _header(size=24)])
    with pytest.raises(InvalidWeights, match="20 bytes came, 24 were announced"):
        await _create(stub, [_header(size=24), Request(weights_chunk=WEIGHTS[:20])])
    with pytest.raises(InvalidWeights):
        await _create(stub, [_header(size=24), Request(weights_chunk=WEIGHTS + b"\0\0\0\0")])
    with pytest.raises(InvalidWeights):
        await _create(stub, [_header(size=0), Request(weights_chunk=WEIGHTS)])
    with pytest.raises(InvalidWeights, match="28 bytes were announced, 24 belong"):
        await _create(stub, _stream(WEIGHTS + b"\0\0\0\0"))
    with pytest.raises(TooLarge):
        await _create(stub, [_header(size=LIMIT + 1)])
    with pytest.raises(WeightsNotFinite):
        await _create(stub, _stream(np.full(6, np.nan, "<f4").tobytes()))
    with pytest.raises(TaskNotFound):
        await stub.GetTask(task_service_pb2.GetTaskRequest(task_id="small"), timeout=20)


async def test_tasks_and_models_that_are_not_valid_are_refused(stub: Stub) -> None:
    broken = task_to_proto(task())
    broken.training.epochs = 0
    with pytest.raises(InvalidTask):
        await _create(stub, [_header(task_message=broken)])
    broken = task_to_proto(task())
    broken.policy.quorum_count, broken.policy.max_total_weight = 5, 1
    with pytest.raises(InvalidPolicy):
        await _create(stub, [_header(task_message=broken)])
    broken = task_to_proto(task())
    broken.task_id = "a/b"
    with pytest.raises(InvalidId):
        await _create(stub, [_header(task_message=broken)])
    header = _header()
    header.header.model.kind = task_pb2.Model.KIND_UNSPECIFIED
    with pytest.raises(InvalidModel, match="KIND_TFJS"):
        await _create(stub, [header])
    header = _header()
    header.header.model.topology_json = b"\xff{}"
    with pytest.raises(InvalidModel, match="UTF-8"):
        await _create(stub, [header])
    header = _header()
    header.header.model.weight_specs[0].shape.append(2**63)
    with pytest.raises(InvalidModel):
        await _create(stub, [header])
    header = _header()
    header.header.model.weight_specs.extend([task_pb2.WeightSpec(name="x")] * MAX_TENSORS)
    with pytest.raises(InvalidModel, match=f"{MAX_TENSORS} tensors"):
        await _create(stub, [header])


async def test_a_stream_that_stalls_is_given_up_and_hinders_nobody(store: DirectoryBlobStore) -> None:
    finished = asyncio.Event()

    async def stalling() -> AsyncIterator[Request]:
        yield _header(size=24)
        await finished.wait()

    async with _served(store, idle_timeout=0.05) as stub:
        for _ in range(servicer_module.MAX_CREATIONS + 1):
            with pytest.raises(StreamStalled):
                await stub.CreateTask(stalling(), timeout=20)
        finished.set()
        await _create(stub, _stream())


async def test_a_stream_that_trickles_is_given_up(store: DirectoryBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer_module, "RECEIVE_TIMEOUT_S", 0.1)

    async def trickling() -> AsyncIterator[Request]:
        yield _file_header(size=LIMIT)
        while True:
            yield Request(weights_chunk=b"\0")
            await asyncio.sleep(0.01)

    async with _served(store) as stub:
        with pytest.raises(StreamStalled):
            await stub.CreateTask(trickling(), timeout=20)


@pytest.mark.parametrize("file", ["keras/dense.keras", "tf_keras/dense.h5"])
async def test_file_of_keras_becomes_the_model_of_a_task(stub: Stub, store: DirectoryBlobStore, file: str) -> None:
    with zipfile.ZipFile(Path(__file__).parent / "conversion" / "saved_models.zip") as archive:
        data = archive.read(file)
    header = Request(
        header=Request.Header(
            task=task_to_proto(task()), weights_size=len(data), model_file=f"../x/{file}", request_id="r"
        )
    )
    answer = await stub.CreateTask(iter([header, Request(weights_chunk=data)]))
    again = await stub.CreateTask(iter([header, Request(weights_chunk=data)]))
    record, kept = await Catalog(store, max_bytes=LIMIT).task(TaskId(answer.task.task_id))
    assert kept.size > 10
    assert record.initial_digest == answer.weights_sha256.hex() == again.weights_sha256.hex()


async def test_weights_of_a_file_are_those_that_were_announced(stub: Stub, store: DirectoryBlobStore) -> None:
    with zipfile.ZipFile(Path(__file__).parent / "conversion" / "saved_models.zip") as archive:
        data = archive.read("tf_keras/dense.h5")

    def attempt(*digest: tuple[str, bytes]) -> list[Request]:
        header = _file_header(size=len(data))
        for algorithm, value in digest:
            header.header.weights_digest.algorithm, header.header.weights_digest.value = algorithm, value
        return [header, Request(weights_chunk=data)]

    with pytest.raises(DigestMismatch) as refused:
        await _create(stub, attempt(("sha256", hashlib.sha256(data).digest())))
    assert await records.list_tasks(store) == []
    right = bytes.fromhex(refused.value.variables["received"])
    created = await _create(stub, attempt(("sha256", right)))
    assert created.weights_sha256 == right


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
async def test_weights_that_are_sent_are_those_that_were_announced(stub: Stub, algorithm: str) -> None:
    for sent, error in ((b"\0" * len(WEIGHTS), DigestMismatch), (b"", DigestMismatch), (WEIGHTS, None)):
        header, *chunks = _stream(sent)
        header.header.weights_digest.algorithm = algorithm
        header.header.weights_digest.value = hashlib.new(algorithm, WEIGHTS).digest()
        with pytest.raises(error) if error else nullcontext():
            await _create(stub, [header, *chunks])


@pytest.mark.parametrize(
    ("algorithm", "value", "field"),
    [("md5", b"0" * 16, "algorithm"), ("", b"", "algorithm"), ("sha256", b"0" * 64, "value")],
)
async def test_digest_that_is_none_is_refused(stub: Stub, algorithm: str, value: bytes, field: str) -> None:
    header, *chunks = _stream()
    header.header.weights_digest.algorithm, header.header.weights_digest.value = algorithm, value
    with pytest.raises(InvalidTask) as refused:
        await _create(stub, [header, *chunks])
    assert refused.value.variables["field"] == f"weights_digest.{field}"


async def test_model_that_is_only_named_by_a_url_is_not_fetched_and_the_refusal_says_what_to_do(stub: Stub) -> None:
    named = task_to_proto(task())
    named.training.model_url = "https://models.example/model.json"
    for size in (0, len(WEIGHTS)):
        alone = Request(header=Request.Header(task=named, weights_size=size))
        with pytest.raises(ModelNotSent, match=r"Send the model with the task, or let the gateway fetch it") as refused:
            await _create(stub, [alone])
        assert refused.value.variables == {"task_id": "small"}
    # With a model it is what it says: where clients may read the model themselves.
    created = await _create(stub, [_header(task_message=named)])
    assert created.task.training.model_url == named.training.model_url


async def test_task_without_a_model_and_without_a_url_has_no_model(stub: Stub) -> None:
    with pytest.raises(InvalidModel, match="KIND_TFJS or KIND_GPT"):
        await _create(stub, [Request(header=Request.Header(task=task_to_proto(task())))])


@pytest.mark.parametrize(("name", "reason"), [("m.pkl", "may end with"), ("m.h5", "cannot be used")])
async def test_file_that_is_no_model_is_refused(stub: Stub, name: str, reason: str) -> None:
    header = Request(header=Request.Header(task=task_to_proto(task()), weights_size=3, model_file=name))
    with pytest.raises(InvalidModel, match=reason):
        await stub.CreateTask(iter([header, Request(weights_chunk=b"abc")]))
