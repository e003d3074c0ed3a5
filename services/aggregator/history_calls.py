"""The calls of disco.aggregator.v1.AggregatorService that look back, or go back: versions, proofs, rollbacks, policies.

Messages in, messages out; the rules are elsewhere.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

from disco.aggregator.v1 import aggregator_service_pb2, aggregator_service_pb2_grpc, round_pb2

from learning.federated import RoundStatus
from learning.ids import participant_id, task_id, valid_id
from learning.refusals import MalformedMessage
from learning.task import Scheme
from rpc.chunks import chunks_of
from rpc.task_messages import policy_from_proto
from services.aggregator.history import History
from services.aggregator.policies import Policies
from services.aggregator.privacy_accounts import PrivacyAccounts
from services.aggregator.receipt_key import ReceiptKey
from services.aggregator.refusal_log import RefusalLog
from services.aggregator.rollbacks import Rollbacks
from services.aggregator.round_messages import receipt_key_message, refusal_message, round_message
from services.aggregator.rounds import Rounds
from services.aggregator.submissions import Announced
from services.aggregator.version_messages import proof_message, version_message


class HistoryCalls(aggregator_service_pb2_grpc.AggregatorServiceServicer):
    """A part of the servicer."""

    def __init__(
        self,
        history: History,
        receipt_key: ReceiptKey,
        *,
        rounds: Rounds,
        accounts: PrivacyAccounts,
        refusal_log: RefusalLog,
        rollbacks: Rollbacks,
        policies: Policies,
    ) -> None:
        self._history = history
        self._receipt_key = receipt_key
        self._rounds_of_history = rounds
        self._accounts = accounts
        self._refusal_log = refusal_log
        self._rollbacks = rollbacks
        self._policies = policies

    async def GetReceiptKey(  # noqa: N802 (the name in the contract)
        self, request: aggregator_service_pb2.GetReceiptKeyRequest, context: Any
    ) -> aggregator_service_pb2.GetReceiptKeyResponse:
        return aggregator_service_pb2.GetReceiptKeyResponse(key=receipt_key_message(self._receipt_key))

    async def ListRefusals(  # noqa: N802
        self, request: aggregator_service_pb2.ListRefusalsRequest, context: Any
    ) -> aggregator_service_pb2.ListRefusalsResponse:
        known = await self._rounds_of_history.federated_task(task_id(request.task_id))
        page, token = await self._refusal_log.page(known.task_id, size=request.page_size, token=request.page_token)
        return aggregator_service_pb2.ListRefusalsResponse(
            refusals=[refusal_message(refusal) for refusal in page], next_page_token=token
        )

    async def NoteRefusal(  # noqa: N802
        self, request: aggregator_service_pb2.NoteRefusalRequest, context: Any
    ) -> aggregator_service_pb2.NoteRefusalResponse:
        if len(request.sha256) not in (0, 32):
            raise MalformedMessage(problem="sha256 must be 32 bytes, or none")
        known = await self._rounds_of_history.federated_task(task_id(request.task_id))
        announced = Announced(
            task_id=known.task_id,
            participant_id=participant_id(request.participant_id),
            base_round=request.round,
            digest=request.sha256.hex(),
            sample_count=0,
        )
        self._refusal_log.note_elsewhere(announced, request.reason, request.sentence)
        return aggregator_service_pb2.NoteRefusalResponse()

    async def ListVersions(  # noqa: N802
        self, request: aggregator_service_pb2.ListVersionsRequest, context: Any
    ) -> aggregator_service_pb2.ListVersionsResponse:
        page, token = await self._history.page(
            task_id(request.task_id), size=request.page_size, token=request.page_token
        )
        return aggregator_service_pb2.ListVersionsResponse(
            versions=[version_message(stated) for stated in page], next_page_token=token
        )

    async def GetVersion(  # noqa: N802
        self, request: aggregator_service_pb2.GetVersionRequest, context: Any
    ) -> aggregator_service_pb2.GetVersionResponse:
        number = request.version if request.HasField("version") else None
        stated = await self._history.find(task_id(request.task_id), number)
        return aggregator_service_pb2.GetVersionResponse(version=version_message(stated))

    async def ReadLedgerEntry(  # noqa: N802
        self, request: aggregator_service_pb2.ReadLedgerEntryRequest, context: Any
    ) -> AsyncIterator[aggregator_service_pb2.ReadLedgerEntryResponse]:
        number = request.version if request.HasField("version") else None
        stated = await self._history.find(task_id(request.task_id), number)
        yield aggregator_service_pb2.ReadLedgerEntryResponse(
            header=aggregator_service_pb2.ReadLedgerEntryResponse.Header(
                version=stated.entry.version,
                entry_size=len(stated.data),
                sha256=version_message(stated).entry_sha256,
            )
        )
        for chunk in chunks_of(stated.data):
            yield aggregator_service_pb2.ReadLedgerEntryResponse(entry_chunk=chunk)

    async def ProveContribution(  # noqa: N802
        self, request: aggregator_service_pb2.ProveContributionRequest, context: Any
    ) -> aggregator_service_pb2.ProveContributionResponse:
        if len(request.sha256) != 32:
            raise MalformedMessage(problem="sha256 must be 32 bytes")
        match request.WhichOneof("place"):
            case "version":
                number = request.version
            case "round":
                number = request.round + 1
            case _:
                raise MalformedMessage(problem="say in which version, or of which round")
        proof = await self._history.prove(
            task_id(request.task_id), number, digest=request.sha256.hex(), participant_id=request.participant_id
        )
        return aggregator_service_pb2.ProveContributionResponse(proof=proof_message(proof, self._receipt_key))

    async def RollBack(  # noqa: N802
        self, request: aggregator_service_pb2.RollBackRequest, context: Any
    ) -> aggregator_service_pb2.RollBackResponse:
        task = task_id(request.task_id)
        entry = await self._rollbacks.roll_back(task, request.version, request_id=_request_id(request.request_id))
        return aggregator_service_pb2.RollBackResponse(
            version=version_message(await self._history.find(task, entry.version)),
            round=await self._round_message(await self._rounds_of_history.status(task)),
        )

    async def ChangePolicy(  # noqa: N802
        self, request: aggregator_service_pb2.ChangePolicyRequest, context: Any
    ) -> aggregator_service_pb2.ChangePolicyResponse:
        policy = policy_from_proto(request.policy, Scheme.FEDERATED)
        status = await self._policies.change(
            task_id(request.task_id), policy, request_id=_request_id(request.request_id)
        )
        return aggregator_service_pb2.ChangePolicyResponse(round=await self._round_message(status))

    async def _round_message(self, status: RoundStatus) -> round_pb2.Round:
        return round_message(status, await self._accounts.standing(status))


def _request_id(given: str) -> str:
    """The caller's, or one that no other request has."""
    return valid_id(given, "request") if given else secrets.token_hex(16)
