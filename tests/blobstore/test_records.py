"""Records are read as they were written, and what is damaged is called damaged."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from blobstore import names, records
from blobstore.directory import DirectoryBlobStore
from blobstore.records import LedgerEntry, LedgerLine, Model, Source, TaskRecord, WeightSpec
from blobstore.store import BlobExists, BlobStore, Buffer
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import StoredDataDamaged, TaskNotFound, VersionNotFound
from learning.task import DataExample, DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from tests.blobstore.tasks import write_task

TASK = TaskId("titanic")
WEIGHTS = bytes(range(16))
MODEL = Model(
    kind="tfjs",
    topology_json='{"class_name": "Sequential"}',
    weight_specs=(WeightSpec("dense/kernel", (3, 1)), WeightSpec("dense/bias", ())),
    training_config_json='{"loss": "meanSquaredError"}',
)
ENTRY = LedgerEntry(
    version=1,
    digest=hashlib.sha256(b"one").hexdigest(),
    base_digest=hashlib.sha256(WEIGHTS).hexdigest(),
    create_time=1763686800.1234567,
    total_weight=6,
    weight_cap=2**20,
    contributions=(LedgerLine("alice", "a1" * 32, 0, 4, 0), LedgerLine("bob", "b1" * 32, 0, 2, 1)),
)


def a_task(title: str = "Titanic: who survives?") -> Task:
    return Task(
        task_id=TASK,
        scheme=Scheme.FEDERATED,
        data_kind=DataKind.TABULAR,
        display=DisplayInformation(title=title, data_example=(DataExample("Âge", "22"),), headers=("Age",)),
        training=TrainingInformation(
            epochs=10, batch_size=32, input_columns=("Age",), output_columns=("Survived",), learning_rate=0.1 + 0.2
        ),
        policy=Policy(quorum_share=None, quorum_count=3, staleness_weights=(4, 1)),
    )


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryBlobStore]:
    async with DirectoryBlobStore(tmp_path) as store:
        yield store


async def written(store: BlobStore, task: Task | None = None, weights: Buffer = WEIGHTS) -> TaskRecord:
    return await write_task(store, task or a_task(), MODEL, weights, request_id="r1", now=1763686800.1234567)


async def read_first_weights(store: BlobStore) -> bytes:
    return await records.read_weights(store, TASK, await records.read_ledger_entry(store, TASK, 0))


# Tasks and models


async def test_a_task_is_read_as_it_was_written(store: BlobStore) -> None:
    record = await written(store)
    assert record == TaskRecord(
        task=a_task(),
        create_time=1763686800.1234567,
        model_digest=hashlib.sha256(records.encode(MODEL)).hexdigest(),
        initial_digest=hashlib.sha256(WEIGHTS).hexdigest(),
        request_id="r1",
    )
    assert await records.read_task(store, TASK) == record
    assert await records.read_model(store, record) == MODEL
    assert await read_first_weights(store) == WEIGHTS


async def test_the_same_record_is_the_same_bytes(store: BlobStore) -> None:
    first, second = a_task(), a_task()
    assert records.encode(first) == records.encode(second)


def test_a_model_knows_its_size() -> None:
    assert [spec.size for spec in MODEL.weight_specs] == [3, 1]
    assert MODEL.size == 4
    assert WeightSpec("empty", (0, 7)).size == 0
    assert WeightSpec("large", (2**20, 2**20)).size == 2**40


async def test_a_task_that_is_not_there_is_not_found(store: BlobStore) -> None:
    with pytest.raises(TaskNotFound) as missing:
        await records.read_task(store, TASK)
    assert missing.value.variables == {"task_id": "titanic"}


async def test_tasks_are_listed_by_their_records_alone(store: BlobStore) -> None:
    assert await records.list_tasks(store) == []
    await written(store)
    await written(store, replace(a_task(), task_id=TaskId("cifar10")))
    # A creator that died before the record has made no task.
    await store.write(names.weights(TaskId("half"), "ab" * 32), [WEIGHTS])
    assert await records.list_tasks(store) == ["cifar10", "titanic"]


async def test_of_two_creators_one_wins_and_its_model_and_weights_are_read(store: BlobStore) -> None:
    # What should happen: one record stays, and what it names is what its creator wrote.
    # What should not happen: the record of one and the weights or the model of the other.
    creations = [
        write_task(
            store,
            a_task(title),
            replace(MODEL, topology_json=title),
            title.encode() * 1000,
            request_id=title,
            now=1.0,
        )
        for title in ("first", "second", "third")
    ]
    answers = await asyncio.gather(*creations, return_exceptions=True)
    won = [answer for answer in answers if isinstance(answer, TaskRecord)]
    assert [type(answer) for answer in answers if answer not in won] == [BlobExists, BlobExists]
    record = await records.read_task(store, TASK)
    assert [record] == won
    title = record.task.display.title
    assert (await records.read_model(store, record)).topology_json == title
    assert await read_first_weights(store) == title.encode() * 1000


# Versions


async def test_version_zero_is_in_the_record(store: BlobStore) -> None:
    record = await written(store)
    assert await records.newest_version(store, TASK) == 0
    assert await records.read_ledger_entry(store, TASK, 0) == LedgerEntry(
        version=0,
        digest=record.initial_digest,
        base_digest="",
        create_time=record.create_time,
        task_id="titanic",
        rule="initial",
    )


async def test_bytes_of_version_zero_never_change(store: BlobStore) -> None:
    # Version 1 states their digest, in ledgers that are written already.
    record = await written(store)
    assert (
        await records.read_entry_bytes(store, TASK, 0)
        == (
            b'{"base_digest":"","create_time":1763686800.1234567,"digest":"%s","previous":"","rule":"initial",'
            b'"source":null,"task_id":"titanic","version":0}'
        )
        % record.initial_digest.encode()
    )


async def test_version_zero_of_a_fork_goes_on_with_the_chain_of_its_source(store: BlobStore) -> None:
    source = Source(task_id="other", version=3, entry_digest="ab" * 32)
    record = replace(await written(store), source=source)
    await store.write(names.task_record(TASK), [records.encode(record)])
    entry = await records.read_ledger_entry(store, TASK, 0)
    assert (entry.rule, entry.previous, entry.source) == ("fork", "ab" * 32, source)


async def test_entries_of_before_there_were_receipts_are_read(store: BlobStore) -> None:
    data = (
        b'{"version":1,"digest":"d1","base_digest":"d0","create_time":2.5,"total_weight":3,"weight_cap":9,'
        b'"contributions":[{"participant_id":"a","digest":"d2","base_round":0,"weight":3,"position":0}]}'
    )
    await store.write(names.ledger_entry(TASK, 1), [data])
    assert await records.read_ledger_entry(store, TASK, 1) == LedgerEntry(
        version=1,
        digest="d1",
        base_digest="d0",
        create_time=2.5,
        total_weight=3,
        weight_cap=9,
        contributions=(LedgerLine("a", "d2", 0, 3, 0),),
        task_id="",
        rule="mean",
        merkle_root="",
        previous="",
        source=None,
    )
    assert await records.read_entry_bytes(store, TASK, 1) == data


async def test_version_zero_of_no_task_is_not_found(store: BlobStore) -> None:
    with pytest.raises(TaskNotFound):
        await records.read_ledger_entry(store, TASK, 0)


async def test_a_version_is_read_as_it_was_written_also_twice(store: BlobStore) -> None:
    await written(store)
    for _ in range(2):
        await records.write_version(store, TASK, b"one", ENTRY)
    assert await records.newest_version(store, TASK) == 1
    assert await records.read_ledger_entry(store, TASK, 1) == ENTRY
    assert await records.read_weights(store, TASK, ENTRY) == b"one"
    name = names.weights_of_version(TASK, 1, ENTRY.digest)
    assert await records.find_weights(store, TASK, ENTRY) == (name, 3)


async def test_weights_from_before_versions_could_be_deleted_are_found(store: BlobStore) -> None:
    await store.write(names.weights(TASK, ENTRY.digest), [b"one"])
    await store.write(names.ledger_entry(TASK, 1), [records.encode(ENTRY)])
    assert await records.read_weights(store, TASK, ENTRY) == b"one"
    assert await records.find_weights(store, TASK, ENTRY) == (names.weights(TASK, ENTRY.digest), 3)


async def test_a_version_is_never_replaced_by_another_one(store: BlobStore) -> None:
    await records.write_version(store, TASK, b"one", ENTRY)
    with pytest.raises(BlobExists):
        await records.write_version(store, TASK, b"one", replace(ENTRY, total_weight=7))
    assert await records.read_ledger_entry(store, TASK, 1) == ENTRY


async def test_the_newest_version_is_the_greatest_number(store: BlobStore) -> None:
    for number in (9, 10, 100, 99):
        await records.write_version(store, TASK, b"one", replace(ENTRY, version=number))
    assert await records.newest_version(store, TASK) == 100


async def test_weights_without_an_entry_are_no_version(store: BlobStore) -> None:
    await written(store)
    await store.write(names.weights_of_version(TASK, 1, ENTRY.digest), [b"one"])
    assert await records.newest_version(store, TASK) == 0
    with pytest.raises(VersionNotFound) as missing:
        await records.read_ledger_entry(store, TASK, 1)
    assert missing.value.variables == {"version": "1"}


# Damage

BROKEN = [b"", b"{", b"[]", b"null", b'{"version": "one"}', b"\xff\xfe", b'{"version": 1}', b"\0" * 100]


@pytest.mark.parametrize("data", BROKEN)
async def test_a_damaged_record_is_called_damaged(store: BlobStore, data: bytes) -> None:
    record = await written(store)
    await records.write_version(store, TASK, b"one", ENTRY)
    reads = {
        names.task_record(TASK): lambda: records.read_task(store, TASK),
        names.model(TASK, record.model_digest): lambda: records.read_model(store, record),
        names.ledger_entry(TASK, 1): lambda: records.read_ledger_entry(store, TASK, 1),
    }
    for name, read in reads.items():
        await store.write(name, [data])
        with pytest.raises(StoredDataDamaged) as damage:
            await read()
        assert damage.value.variables == {"name": name}


async def test_a_record_that_breaks_the_rules_is_damaged(store: BlobStore) -> None:
    # Validation at construction holds for stored values too, whatever the refusal.
    record = records.encode(await written(store))
    for sound, broken in ((b'"epochs":10', b'"epochs":0'), (b'"task_id":"titanic"', b'"task_id":"../x"')):
        assert sound in record
        await store.write(names.task_record(TASK), [record.replace(sound, broken)])
        with pytest.raises(StoredDataDamaged):
            await records.read_task(store, TASK)


async def test_a_model_that_is_gone_is_damage_of_its_task(store: BlobStore) -> None:
    record = await written(store)
    await store.delete(names.model(TASK, record.model_digest))
    with pytest.raises(StoredDataDamaged):
        await records.read_model(store, record)


@pytest.mark.parametrize("data", [None, b"", WEIGHTS[:-1], WEIGHTS[:-1] + b"\xff"])
async def test_damaged_weights_are_called_damaged(store: BlobStore, data: bytes | None) -> None:
    record = await written(store)
    name = names.weights(TASK, record.initial_digest)
    await (store.delete(name) if data is None else store.write(name, [data]))
    with pytest.raises(StoredDataDamaged) as damage:
        await read_first_weights(store)
    assert damage.value.variables == {"name": name}
