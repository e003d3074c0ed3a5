"""Every name in the blob store is built here, and nowhere else.

    tasks/<task>/task.json                   the task record                        task service
    tasks/<task>/models/<digest>.json        the model without weights              task service
    tasks/<task>/weights/<digest>            weights of version 0, float32          task service
    tasks/<task>/weights/<number>.<digest>   weights of version 1, 2, …             aggregator
    tasks/<task>/versions/<number>.json      ledger entry of version 1, 2, …        aggregator
    tasks/<task>/updates/<revision>.json     the task since revision 2, 3, …        task service
    tasks/<task>/pins/<number>               weights of this version are kept       task service, aggregator
    tasks/<task>/kept/<number>               from where on all weights are kept     aggregator
    tasks/<task>/rollbacks/<request>         the version that a rollback made       aggregator
    tasks/<task>/policies/<number>.json      change 1, 2, … of the policy           aggregator
    sums/<task>/<round>.<replica>.<slot>     a partial sum, slot 0 or 1             aggregator
    contributions/<task>/<round>/<digest>    a contribution that is kept by itself  aggregator
    states/<task>/<version>/<digest>         what the rule goes on with (momentum)  aggregator
    deleted/<task>/deletion.json             a task was deleted; stays for good     task service
    creations/<task>/<creation>.<bytes>      a task is being created, of this size  task service
    clearings/<task>/<clearing>              what a creation left is being deleted  task service
    keys/receipt.ed25519                     the private key of receipts, PEM       aggregator
    keys/noise.hex                           the secret that noise is drawn from    aggregator

Models and weights (little-endian) have the SHA-256 of their bytes in their names, so
writing them twice is harmless and two writers cannot mix. Weights have the number of their
version there, too: deleting those of one never takes those of another that happens to be equal.
(Versions that were written before weights could be deleted have the digest alone.)
A task exists when its record does; the record is written last, and only once.
Version 0 is in the record; a later version exists when its ledger entry does, which is
written after its weights. Numbers have twelve digits, so that the order of names is
the order of numbers. What lies under `keys/` is secret: a store that knows owners lets
its own alone read it.
"""

from __future__ import annotations

from learning.ids import ReplicaId, TaskId, valid_id

PRIVATE = "keys/"
TASKS = "tasks"
DELETED = "deleted"
CREATIONS = "creations"
CLEARINGS = "clearings"


def receipt_key() -> str:
    return f"{PRIVATE}receipt.ed25519"


def noise_secret() -> str:
    return f"{PRIVATE}noise.hex"


def task_record(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/task.json"


def task(task_id: TaskId) -> str:
    return f"{TASKS}/{valid_id(task_id, 'task')}"


def task_updates(task_id: TaskId) -> str:
    return f"{task(task_id)}/updates"


def task_update(task_id: TaskId, revision: int) -> str:
    return f"{task_updates(task_id)}/{revision:012d}.json"


def deletion(task_id: TaskId) -> str:
    return f"{DELETED}/{valid_id(task_id, 'task')}/deletion.json"


def creations(task_id: TaskId) -> str:
    return f"{CREATIONS}/{valid_id(task_id, 'task')}"


def creation(task_id: TaskId, creation_id: str, size: int) -> str:
    return f"{creations(task_id)}/{creation_id}.{size}"


def clearings(task_id: TaskId) -> str:
    return f"{CLEARINGS}/{valid_id(task_id, 'task')}"


def clearing(task_id: TaskId, clearing_id: str) -> str:
    return f"{clearings(task_id)}/{clearing_id}"


def models(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/models"


def model(task_id: TaskId, digest: str) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/models/{digest}.json"


def weights(task_id: TaskId, digest: str) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/weights/{digest}"


def weights_of_version(task_id: TaskId, number: int, digest: str) -> str:
    return f"{all_weights(task_id)}/{number:012d}.{digest}" if number else weights(task_id, digest)


def all_weights(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/weights"


def version_of_weights(name: str) -> int:
    """The version whose weights these are; 0 where the name does not say."""
    number, dot, _ = name.rsplit("/", 1)[1].partition(".")
    return int(number) if dot else 0


def pins(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/pins"


def pin(task_id: TaskId, number: int) -> str:
    return f"{pins(task_id)}/{number:012d}"


def bounds_of_kept(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/kept"


def bound_of_kept(task_id: TaskId, number: int) -> str:
    return f"{bounds_of_kept(task_id)}/{number:012d}"


def rollback(task_id: TaskId, request_id: str) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/rollbacks/{valid_id(request_id, 'request')}"


def policies(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/policies"


def policy(task_id: TaskId, number: int) -> str:
    return f"{policies(task_id)}/{number:012d}.json"


def versions(task_id: TaskId) -> str:
    return f"tasks/{valid_id(task_id, 'task')}/versions"


def ledger_entry(task_id: TaskId, number: int) -> str:
    return f"{versions(task_id)}/{number:012d}.json"


def sums(task_id: TaskId) -> str:
    return f"sums/{valid_id(task_id, 'task')}"


def is_slot(name: str) -> bool:
    """Whether the blob is one that is written over: a slot of a partial sum."""
    return name.startswith("sums/")


def sums_of_round(task_id: TaskId, number: int) -> str:
    """What the names of a round's sums begin with; of rounds that were collected before, it was their folder."""
    return f"{sums(task_id)}/{number:012d}"


def contributions(task_id: TaskId) -> str:
    return f"contributions/{valid_id(task_id, 'task')}"


def contributions_of_round(task_id: TaskId, number: int) -> str:
    return f"{contributions(task_id)}/{number:012d}"


def contribution(task_id: TaskId, number: int, digest: str) -> str:
    return f"{contributions_of_round(task_id, number)}/{digest}"


def rule_states(task_id: TaskId) -> str:
    return f"states/{valid_id(task_id, 'task')}"


def rule_states_of_version(task_id: TaskId, number: int) -> str:
    return f"{rule_states(task_id)}/{number:012d}"


def rule_state(task_id: TaskId, number: int, digest: str) -> str:
    return f"{rule_states_of_version(task_id, number)}/{digest}"


def partial_sum(task_id: TaskId, number: int, replica_id: ReplicaId, slot: int) -> str:
    # No folder for each round: making and removing it would cost a short round more than writing its sum.
    return f"{sums_of_round(task_id, number)}.{valid_id(replica_id, 'replica')}.{slot}"
