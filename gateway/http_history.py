"""What lets anybody check a task's history over HTTP: its round, its versions, proofs, the key of receipts.

    GET /tasks/{task}/round                           the open round, and what it waits for
    GET /tasks/{task}/refusals                        the last contributions that were refused, and why, page by page
    GET /tasks/{task}/versions                        the versions, the newest first, page by page
    GET /tasks/{task}/versions/{n}                    the ledger entry, byte for byte as it was written
    GET /tasks/{task}/versions/{n}/weights.bin        the weights: little-endian float32
    GET /tasks/{task}/versions/{n}/proof?digest=…     proves that a contribution is in the version
    GET /receipt-key, /receipt-key.pem                the public key that checks receipts

JSON has snake_case names; bytes are lower-case hex. What is said of a version never
changes, so it may be cached for good. Knows the aggregator's messages; checks nothing of them
(`disco-server verify` does).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from disco.aggregator.v1.aggregator_service_pb2 import (
    GetReceiptKeyRequest,
    GetRoundRequest,
    ListRefusalsRequest,
    ListVersionsRequest,
    ProveContributionRequest,
    ReadLedgerEntryRequest,
    ReadVersionRequest,
)
from disco.signaling.v1.signaling_service_pb2 import GetPeerRoundRequest
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from gateway.descriptions import JSON, OCTETS, TaskPath, answers
from gateway.history_documents import (
    peer_round_document,
    proof_document,
    receipt_key_document,
    refusal_document,
    round_document,
    version_document,
)
from gateway.http_bodies import FOR_GOOD, Bodies, ServedBody, StreamedBody
from gateway.versions import IDLE_TIMEOUT_S
from learning.refusals import MalformedMessage, StoreUnavailable, WrongScheme
from learning.task import Scheme
from rpc.channel import retrying

if TYPE_CHECKING:
    from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceAsyncStub
    from disco.signaling.v1.signaling_service_pb2_grpc import SignalingServiceAsyncStub

ANSWER_WITHIN_S = 5.0
PEM = "application/x-pem-file"

NumberPath = Annotated[int, Path(description="Number of the version.", ge=0, lt=2**63)]
Digest = Annotated[str, Query(description="SHA-256 of the contributed weights, in hex.", pattern="^[0-9a-fA-F]{64}$")]
Participant = Annotated[
    str, Query(description="Who contributed; where two contributed the same weights.", max_length=128)
]
PageSize = Annotated[int, Query(description="Versions on one page, at most 100; 0: 20.", ge=0, le=100)]
PageToken = Annotated[
    str,
    Query(
        description="`next_page_token` of the page before; empty: from the newest.",
        json_schema_extra={"pattern": "^[0-9]{0,18}$"},
    ),
]

RefusalPageSize = Annotated[int, Query(description="Refusals on one page, at most 100; 0: 20.", ge=0, le=100)]
RefusalPageToken = Annotated[
    str,
    Query(
        description="`next_page_token` of the page before; empty: from the newest.",
        json_schema_extra={"pattern": "^([0-9]{1,18}-[0-9]{1,18})?$"},
    ),
]


class HistoryRoutes:
    """The routes and what they need."""

    def __init__(
        self, aggregator: AggregatorServiceAsyncStub, signaling: SignalingServiceAsyncStub, *, bodies: Bodies
    ) -> None:
        self._aggregator = aggregator
        self._signaling = signaling
        self._bodies = bodies

    def router(self) -> APIRouter:
        """To be included before the routes of files, which would take `round` and `versions` for files."""
        router = APIRouter(tags=["history"])
        one = "/tasks/{task_id}/versions/{version}"
        for path, route, summary, kinds in (
            ("/tasks/{task_id}/round", self.read_round, "The open round, and what it waits for", [JSON]),
            ("/tasks/{task_id}/refusals", self.list_refusals, "The last refusals, the newest first", [JSON]),
            ("/tasks/{task_id}/versions", self.list_versions, "The versions, the newest first", [JSON]),
            (one, self.read_entry, "The ledger entry of a version, as it was written", [JSON]),
            (f"{one}/weights.bin", self.read_weights, "The weights of a version", [OCTETS]),
            (f"{one}/proof", self.prove, "Proves that a contribution is in a version", [JSON]),
            ("/receipt-key", self.read_key, "The public key that checks receipts", [JSON, PEM]),
            ("/receipt-key.pem", self.read_key, "The same as PEM", [PEM]),
        ):
            router.add_api_route(
                path,
                route,
                methods=["GET"],
                summary=summary,
                responses=answers(kinds, 206, 416),
                response_class=Response,
            )
        return router

    async def read_round(self, task_id: TaskPath) -> Response:
        """Its number, the reason for which it waits, for programs and as a sentence, and who is there; also of a
        decentralized task."""
        try:
            request = GetRoundRequest(task_id=task_id)
            answer = await retrying(lambda: self._aggregator.GetRound(request), seconds=ANSWER_WITHIN_S)
            document = round_document(answer.round)
        except WrongScheme as refusal:
            if refusal.variables["scheme"] != Scheme.DECENTRALIZED.value:
                raise
            document = await self._peer_round(task_id)
        return Response(msgspec.json.encode(document), media_type=JSON, headers=_fresh())

    async def _peer_round(self, task_id: str) -> dict[str, Any]:
        request = GetPeerRoundRequest(task_id=task_id)
        answer = await retrying(lambda: self._signaling.GetPeerRound(request), seconds=ANSWER_WITHIN_S)
        return peer_round_document(answer.round)

    async def list_refusals(
        self, task_id: TaskPath, page_size: RefusalPageSize = 0, page_token: RefusalPageToken = ""
    ) -> Response:
        """Of contributions only: whose (its participant id, as in a ledger entry), from which round, the reason for
        programs and as a sentence. The last 256 of a task are kept, for a week."""
        asked = ListRefusalsRequest(task_id=task_id, page_size=page_size, page_token=page_token)
        page = await retrying(lambda: self._aggregator.ListRefusals(asked), seconds=ANSWER_WITHIN_S)
        refusals = [refusal_document(refusal) for refusal in page.refusals]
        body = msgspec.json.encode({"refusals": refusals, "next_page_token": page.next_page_token})
        return Response(body, media_type=JSON, headers=_fresh())

    async def list_versions(
        self, request: Request, task_id: TaskPath, page_size: PageSize = 0, page_token: PageToken = ""
    ) -> Response:
        """What each version was made of, apart from the single contributions."""
        asked = ListVersionsRequest(task_id=task_id, page_size=page_size, page_token=page_token)
        page = await retrying(lambda: self._aggregator.ListVersions(asked), seconds=ANSWER_WITHIN_S)
        versions = [version_document(version) for version in page.versions]
        body = msgspec.json.encode({"versions": versions, "next_page_token": page.next_page_token})
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        return await self._bodies.answer(request, ServedBody(JSON, body, tag))

    async def read_entry(self, request: Request, task_id: TaskPath, version: NumberPath) -> Response:
        """All contributions of a version, their Merkle root, what it was made from, and the digest of the entry before.

        The SHA-256 of this very body is what the next entry states as `previous`.
        """
        stream = self._aggregator.ReadLedgerEntry(ReadLedgerEntryRequest(task_id=task_id, version=version))
        return await self._streamed(request, stream, size="entry_size", chunk="entry_chunk", kind=JSON)

    async def read_weights(self, request: Request, task_id: TaskPath, version: NumberPath) -> Response:
        """The weights, in the order of the model's weight specs. Only those of the newest versions are kept."""
        stream = self._aggregator.ReadVersion(ReadVersionRequest(task_id=task_id, version=version))
        return await self._streamed(request, stream, size="weights_size", chunk="weights_chunk", kind=OCTETS)

    async def prove(
        self, request: Request, task_id: TaskPath, version: NumberPath, digest: Digest, participant: Participant = ""
    ) -> Response:
        """The signed receipt of the contribution, and its path in the Merkle tree of the version."""
        asked = ProveContributionRequest(
            task_id=task_id, version=version, sha256=bytes.fromhex(digest), participant_id=participant
        )
        answer = await retrying(lambda: self._aggregator.ProveContribution(asked), seconds=ANSWER_WITHIN_S)
        tag = f'"{hashlib.sha256(answer.proof.root + answer.proof.leaf).hexdigest()}"'
        body = msgspec.json.encode(proof_document(answer.proof))
        return await self._bodies.answer(request, ServedBody(JSON, body, tag), cached=FOR_GOOD)

    async def read_key(self, request: Request) -> Response:
        """As JSON, or as PEM where the path ends in `.pem` or `Accept` names it."""
        answer = await retrying(lambda: self._aggregator.GetReceiptKey(GetReceiptKeyRequest()), seconds=ANSWER_WITHIN_S)
        as_pem = request.url.path.endswith(".pem") or PEM in request.headers.get("accept", "")
        body = answer.key.pem.encode() if as_pem else msgspec.json.encode(receipt_key_document(answer.key))
        served = ServedBody(PEM if as_pem else JSON, body, f'"{answer.key.key_id}-{"pem" if as_pem else "json"}"')
        return await self._bodies.answer(request, served, headers={"Vary": "Accept"})

    async def _streamed(self, request: Request, stream: Any, *, size: str, chunk: str, kind: str) -> Response:
        """A body as it comes, held nowhere. One that ends early breaks the connection: nobody takes it for whole."""
        messages = aiter(stream)
        try:
            async with asyncio.timeout(IDLE_TIMEOUT_S):
                first = await anext(messages, None)
        except TimeoutError:
            raise StoreUnavailable from None
        if first is None or first.WhichOneof("part") != "header":
            raise MalformedMessage(problem="the stream must begin with its header")

        async def chunks() -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    async with asyncio.timeout(IDLE_TIMEOUT_S):
                        message = await anext(messages, None)
                    if message is None:
                        return
                    yield getattr(message, chunk)
            finally:
                stream.cancel()

        served = StreamedBody(kind, getattr(first.header, size), f'"{first.header.sha256.hex()}"', chunks)
        response = await self._bodies.answer(request, served, cached=FOR_GOOD)
        if not isinstance(response, StreamingResponse):
            stream.cancel()
        return response


def _fresh() -> dict[str, str]:
    return {"Cache-Control": "no-store"}
