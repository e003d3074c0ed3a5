"""One replica, its parts put together over a round store and a blob store. Knows neither Redis nor a network."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from blobstore.store import BlobStore
from learning.ids import ReplicaId
from roundstore.store import RoundStore
from rpc.handover import Handover
from services.aggregator.changes import Changes
from services.aggregator.closing import LEASE_S, Closing
from services.aggregator.coordinator import Coordinator
from services.aggregator.counted import Counted
from services.aggregator.history import History
from services.aggregator.intake import ANSWER_S, Intake
from services.aggregator.metrics import AggregatorMetrics
from services.aggregator.policies import Policies
from services.aggregator.privacy_accounts import PrivacyAccounts
from services.aggregator.receipt_key import ReceiptKey
from services.aggregator.refusal_log import RefusalLog
from services.aggregator.rollbacks import Rollbacks
from services.aggregator.rounds import Rounds
from services.aggregator.salvage import PATIENCE_S, Salvage
from services.aggregator.servicer import IDLE_TIMEOUT_S, AggregatorServicer
from services.aggregator.submissions import Submissions
from services.aggregator.upkeep import Upkeep
from services.aggregator.upload_memory import UploadMemory
from services.aggregator.versions import Versions


class Replica:
    """An aggregator but for the server: `servicer` answers calls, `running` does what nobody calls for.

    participant_lease_s   a participant whose presence is not renewed for so long has left
    closing_lease_s       a replica that takes longer to close a round, and longer than its model
                          allows for, may be overtaken
    salvage_patience_s    stored bytes that cannot be read for so long are taken for lost
    answer_s              a contribution waits so long for its admission
    kept_versions         how many of the newest versions keep their weights; 0: all
    handover              where weights change hands between processes of this machine
    """

    def __init__(
        self,
        store: RoundStore,
        blobs: BlobStore,
        *,
        receipt_key: ReceiptKey,
        registry: CollectorRegistry,
        clock: Callable[[], float],
        participant_lease_s: float,
        max_bytes: int,
        upload_memory_bytes: int,
        kept_versions: int = 0,
        closing_lease_s: float = LEASE_S,
        salvage_patience_s: float = PATIENCE_S,
        answer_s: float = ANSWER_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        handover: Handover | None = None,
    ) -> None:
        self.replica_id = ReplicaId(secrets.token_hex(8))  # given once: a process that starts again is another replica
        self.memory = UploadMemory(upload_memory_bytes)
        self.changes = Changes(store)
        metrics = self.metrics = AggregatorMetrics(registry)
        rounds = Rounds(store, blobs, clock=clock)
        accounts = PrivacyAccounts(blobs, rounds)
        counted = Counted(store, blobs)
        self._intake = Intake(
            store,
            blobs,
            rounds=rounds,
            accounts=accounts,
            counted=counted,
            changes=self.changes,
            replica_id=self.replica_id,
            metrics=metrics,
            clock=clock,
            answer_s=answer_s,
        )
        salvage = Salvage(store, blobs, rounds, clock=clock, patience_s=salvage_patience_s)
        self.closing = Closing(
            store,
            blobs,
            rounds,
            accounts,
            salvage=salvage,
            replica_id=self.replica_id,
            metrics=metrics,
            clock=clock,
            leased=self._intake.look,
            held=self._intake.take_sum,
            lease_s=closing_lease_s,
        )
        upkeep = Upkeep(store, blobs, rounds=rounds, kept_versions=kept_versions, clock=clock)
        self._coordinator = Coordinator(
            store,
            rounds=rounds,
            changes=self.changes,
            closing=self.closing,
            intake=self._intake,
            salvage=salvage,
            upkeep=upkeep,
            clock=clock,
        )
        self._refusal_log = RefusalLog(store, clock=clock)
        self.servicer = AggregatorServicer(
            store,
            rounds=rounds,
            accounts=accounts,
            changes=self.changes,
            submissions=Submissions(
                rounds=rounds,
                accounts=accounts,
                counted=counted,
                intake=self._intake,
                salvage=salvage,
                memory=self.memory,
                metrics=metrics,
                note=self._refusal_log.note,
                max_bytes=max_bytes,
            ),
            versions=Versions(blobs, rounds),
            receipt_key=receipt_key,
            refusal_log=self._refusal_log,
            history=History(store, blobs, rounds),
            rollbacks=Rollbacks(
                store,
                blobs,
                rounds=rounds,
                changes=self.changes,
                closing=self.closing,
                replica_id=self.replica_id,
                clock=clock,
            ),
            policies=Policies(blobs, rounds, upkeep=upkeep, changes=self.changes, clock=clock),
            clock=clock,
            lease_s=participant_lease_s,
            max_bytes=max_bytes,
            handover=handover,
            idle_timeout_s=idle_timeout_s,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Attends the rounds while the block runs; contributions that wait at its end are refused with SHUTDOWN."""
        attending = asyncio.create_task(self._coordinator.run())
        try:
            yield
        finally:
            self._intake.stop()
            self._refusal_log.stop()
            attending.cancel()
            await asyncio.gather(attending, return_exceptions=True)
