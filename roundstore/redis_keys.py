"""Every key of the rounds in Redis is built here, and nowhere else.

    disco:open_tasks                       set     the tasks that have a round
    disco:rounds                           channel ids of tasks whose round changed
    disco:tasks                            channel ids of tasks that were created, updated or deleted
    disco:{<task>}:round                   hash    the open round, without the names in it
    disco:{<task>}:leases                  zset    participant → end of its lease, seconds
    disco:{<task>}:connections             hash    participant → the connection that joined last, where it is told
    disco:{<task>}:admissions              hash    participant → admission in the open round
    disco:{<task>}:absent                  set     contributors of the open round that are not present
    disco:{<task>}:sums                    hash    replica → pointer to its partial sum of the open round
    disco:{<task>}:admissions:<number>     hash    the same of a round that is over
    disco:{<task>}:sums:<number>           hash    the same of a round that is over, and what else to know of it
    disco:{<task>}:lost:<number>           list    participant and admission: acknowledged in the round, and lost
    disco:{<task>}:norms                   list    norms of the last contributions that were admitted
    disco:{<task>}:refusals                stream  the last contributions that were refused, and why
    disco:{<task>}:metadata:<key>          zset    rounds that have texts under this key
    disco:{<task>}:metadata:<key>:<round>  hash    participant → text
    disco:{<task>}:peers                   hash    the decentralized round: revision, body
    disco:{<task>}:held:<peer>             list    signals for a peer between two streams
    disco:peer_ids                         string  the newest peer id
    disco:peers                            channel tasks whose decentralized round changed, with its revision
    disco:signals:<replica>                channel signals for the peers whose streams the replica holds

The braces are a hash tag: all keys of one task lie in the same slot of a Redis
Cluster, so that one script may touch them together. What each key lives for is
in docs/redis.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from learning.ids import PeerId, ReplicaId, TaskId, valid_id

OPEN_TASKS = "disco:open_tasks"
CHANNEL = "disco:rounds"
TASKS_CHANNEL = "disco:tasks"

CLOSED_ROUND_TTL_S = 2 * 3600
"""How long admissions of a closed round are kept; an hour is promised."""
REFUSALS_TTL_S = 8 * 24 * 3600
"""How long refusals are kept after the last one; a week is promised."""
METADATA_TTL_S = 25 * 3600
"""How long texts are kept; a day is promised."""


@dataclass(frozen=True, slots=True)
class RoundKeys:
    """The keys of one task's open round."""

    round: str
    leases: str
    absent: str
    admissions: str
    sums: str


def of_task(task_id: TaskId) -> RoundKeys:
    prefix = _prefix(task_id)
    return RoundKeys(
        round=f"{prefix}:round",
        leases=f"{prefix}:leases",
        absent=f"{prefix}:absent",
        admissions=f"{prefix}:admissions",
        sums=f"{prefix}:sums",
    )


def connections(task_id: TaskId) -> str:
    return f"{_prefix(task_id)}:connections"


def closed_admissions(task_id: TaskId, number: int) -> str:
    return f"{_prefix(task_id)}:admissions:{number}"


def closed_sums(task_id: TaskId, number: int) -> str:
    return f"{_prefix(task_id)}:sums:{number}"


def lost(task_id: TaskId, number: int) -> str:
    return f"{_prefix(task_id)}:lost:{number}"


def norms(task_id: TaskId) -> str:
    return f"{_prefix(task_id)}:norms"


def refusals(task_id: TaskId) -> str:
    return f"{_prefix(task_id)}:refusals"


def metadata_rounds(task_id: TaskId, key: str) -> str:
    return f"{_prefix(task_id)}:metadata:{valid_id(key, 'metadata')}"


def metadata(task_id: TaskId, key: str, number: int) -> str:
    return f"{metadata_rounds(task_id, key)}:{number}"


PEER_IDS = "disco:peer_ids"
PEERS_CHANNEL = "disco:peers"

PEERS_TTL_S = 7 * 24 * 3600
"""How long a decentralized round is kept after its last change; peers who are there renew their leases."""
HELD_SIGNALS_TTL_S = 15
"""How long signals wait for their peer to come back: about as long as a WebRTC negotiation has patience."""


def peers(task_id: TaskId) -> str:
    return f"{_prefix(task_id)}:peers"


def held_signals(task_id: TaskId, peer_id: PeerId) -> str:
    return f"{_prefix(task_id)}:held:{valid_id(peer_id, 'peer')}"


def signals_channel(replica_id: ReplicaId) -> str:
    return f"disco:signals:{valid_id(replica_id, 'replica')}"


def _prefix(task_id: TaskId) -> str:
    return f"disco:{{{valid_id(task_id, 'task')}}}"
