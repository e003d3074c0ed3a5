"""Every name in the blob store is built here, and nowhere else.

    tasks/<task>/task.json                   the task record                        task service
    tasks/<task>/models/<digest>.json        the model without weights              task service
    tasks/<task>/weights/<digest>            weights, float32, little-endian        task service, aggregator
    tasks/<task>/versions/<number>.json      ledger entry of version 1, 2, …        aggregator
    sums/<task>/<round>/<replica>.<slot>     a partial sum, slot 0 or 1             aggregator
    keys/receipt.ed25519                     the private key of receipts, PEM       aggregator

Models and weights are named by the SHA-256 of their bytes, so writing them
twice is harmless and two writers cannot mix. A task exists when its record does; the
record is written last, and only once. Version 0 is in the record; a later version
exists when its ledger entry does, which is written after its weights. Numbers have
twelve digits, so that the order of names is the order of numbers. What lies under
`keys/` is secret: a store that knows owners lets its own alone read it.
"""

from __future__ import annotations

from learning.ids import ReplicaId, TaskId, valid_id

PRIVATE = "keys/"


def receipt_key() -> str:
    return f"{PRIVATE}receipt.ed25519"


def task_record(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/task.json"


def model(task_id: TaskId, digest: str) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/models/{digest}.json"


def weights(task_id: TaskId, digest: str) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/weights/{digest}"


def versions(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/versions"


def ledger_entry(task_id: TaskId, number: int) -> str:
    return f"{versions(task_id)}/{number:012d}.json"


def sums(task_id: TaskId) -> str:
    return f"sums/{valid_id(task_id, 'task')}"


def sums_of_round(task_id: TaskId, number: int) -> str:
    return f"{sums(task_id)}/{number:012d}"


def partial_sum(task_id: TaskId, number: int, replica_id: ReplicaId, slot: int) -> str:
    return f"{sums_of_round(task_id, number)}/{valid_id(replica_id, 'replica')}.{slot}"
