"""Changes the policy of a task while it runs. Knows the order of things; what a policy may be is `learning.policy`.

First the change is written to the blob store, then the round store is told. Who dies in
between leaves a change that the next sweep, or the same request again, puts in force.
"""

from __future__ import annotations

from collections.abc import Callable

from blobstore import policies
from blobstore.store import BlobStore
from learning.federated import RoundStatus, is_due
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import MalformedMessage
from learning.weighing import check_room
from services.aggregator.changes import Changes
from services.aggregator.rounds import Rounds
from services.aggregator.upkeep import Upkeep


class Policies:
    """The policies of all tasks."""

    def __init__(
        self, blobs: BlobStore, rounds: Rounds, *, upkeep: Upkeep, changes: Changes, clock: Callable[[], float]
    ) -> None:
        self._blobs = blobs
        self._rounds = rounds
        self._upkeep = upkeep
        self._changes = changes
        self._clock = clock

    async def change(self, task_id: TaskId, policy: Policy, *, request_id: str) -> RoundStatus:
        """The round under the policy. Raises InvalidPolicy where it could never close, MalformedMessage."""
        status = await self._rounds.status(task_id)
        done = await policies.of_request(self._blobs, task_id, request_id)
        if done is None:
            check_room(status, policy)
            await policies.add(self._blobs, task_id, policy, request_id=request_id, now=self._clock())
        elif done.policy != policy:
            raise MalformedMessage(problem="the request_id was used for another policy")
        status = await self._upkeep.settle_policy(status)
        if is_due(status, self._clock()):
            self._changes.announce_due(task_id)
        return status
