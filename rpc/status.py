"""Refusals and faults on gRPC, and back: which reason has which status, and what travels beside it.

A failed call carries one google.rpc.ErrorInfo (domain "disco", the reason, every
variable under a lowerCamelCase key), a BadRequest naming the field where the error
names one, and a RetryInfo where the same call may work in a moment. The other
side gets the same class with the same variables. Knows nothing of what any call does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from string import Formatter

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from learning.refusals import BY_REASON, DiscoError, Fault, ShuttingDown, StoreUnavailable

DOMAIN = "disco"
DETAILS_KEY = "grpc-status-details-bin"
RETRY_DELAY_S = 0.1

# gRPC refuses responses whose metadata exceed 8 KiB, and the text travels percent-encoded (three
# bytes for one) beside the base64 of all details: these bounds keep the worst case below that.
MAX_TEXT_BYTES = 1024
MAX_VARIABLE_BYTES = 512

_CODE = grpc.StatusCode
_CODE_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

STATUS_BY_REASON: dict[str, grpc.StatusCode] = {
    "TASK_NOT_FOUND": _CODE.NOT_FOUND,
    "TASK_ALREADY_EXISTS": _CODE.ALREADY_EXISTS,
    "INVALID_TASK": _CODE.INVALID_ARGUMENT,
    "INVALID_MODEL": _CODE.INVALID_ARGUMENT,
    "MODEL_NOT_SENT": _CODE.INVALID_ARGUMENT,
    "INVALID_ID": _CODE.INVALID_ARGUMENT,
    "INVALID_POLICY": _CODE.INVALID_ARGUMENT,
    "WRONG_SCHEME": _CODE.FAILED_PRECONDITION,
    "INVALID_WEIGHTS": _CODE.INVALID_ARGUMENT,
    "WEIGHTS_NOT_FINITE": _CODE.INVALID_ARGUMENT,
    "WEIGHTS_OUT_OF_BOUND": _CODE.INVALID_ARGUMENT,
    "DIGEST_MISMATCH": _CODE.INVALID_ARGUMENT,
    "ROUND_STALE": _CODE.ABORTED,
    "ROUND_AHEAD": _CODE.FAILED_PRECONDITION,
    "DUPLICATE_CONTRIBUTION": _CODE.ALREADY_EXISTS,
    "WEIGHT_CAP_REACHED": _CODE.RESOURCE_EXHAUSTED,
    "NORM_TOO_LARGE": _CODE.FAILED_PRECONDITION,
    "PRIVACY_BUDGET_SPENT": _CODE.FAILED_PRECONDITION,
    "PRIVACY_NOT_ACCOUNTED": _CODE.FAILED_PRECONDITION,
    "TOO_LARGE": _CODE.RESOURCE_EXHAUSTED,
    "MALFORMED_MESSAGE": _CODE.INVALID_ARGUMENT,
    "VERSION_NOT_FOUND": _CODE.NOT_FOUND,
    "NOT_IN_VERSION": _CODE.NOT_FOUND,
    "PEER_NOT_CONNECTED": _CODE.NOT_FOUND,
    "PEER_REPLACED": _CODE.ABORTED,
    "TASK_CREATION_DENIED": _CODE.PERMISSION_DENIED,
    "TASK_DELETED": _CODE.ALREADY_EXISTS,
    "TASK_CHANGED": _CODE.ABORTED,
    "TASK_FIELD_FIXED": _CODE.FAILED_PRECONDITION,
    "QUOTA_EXCEEDED": _CODE.RESOURCE_EXHAUSTED,
    "TOO_MANY_UPLOADS": _CODE.RESOURCE_EXHAUSTED,
    "STORAGE_FULL": _CODE.RESOURCE_EXHAUSTED,
    "STORE_UNAVAILABLE": _CODE.UNAVAILABLE,
    "SHUTDOWN": _CODE.UNAVAILABLE,
    "SLOW_CONSUMER": _CODE.RESOURCE_EXHAUSTED,
    "STREAM_STALLED": _CODE.DEADLINE_EXCEEDED,
    "NOT_HANDED_OVER": _CODE.FAILED_PRECONDITION,
    "STORED_DATA_DAMAGED": _CODE.DATA_LOSS,
    "INTERNAL": _CODE.INTERNAL,
}
"""Every reason and its status, as the comments of disco.errors.v1.ErrorReason promise them."""


class UnexplainedFault(Fault):
    """A service answered with a status that names no reason of ours: a proxy's, a newer server's, or gRPC's own."""

    reason = "INTERNAL"
    sentence = "A service answered {status}: {text}"


def to_rich_status(error: DiscoError) -> status_pb2.Status:
    """What travels for an error: status, text and details."""
    code = STATUS_BY_REASON[error.reason]
    status = status_pb2.Status(code=code.value[0], message=_shortened(str(error), MAX_TEXT_BYTES))
    variables = {name: _shortened(value, MAX_VARIABLE_BYTES) for name, value in error.variables.items()}
    metadata = {_camel_case(name): value for name, value in variables.items()}
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain=DOMAIN, reason=error.reason, metadata=metadata))
    if "field" in variables:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=variables["field"], description=variables.get("problem", ""), reason=error.reason
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if code is _CODE.UNAVAILABLE:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(RETRY_DELAY_S * 1e9))
        status.details.add().Pack(retry)
    return status


def from_rpc_error(error: grpc.aio.AioRpcError) -> DiscoError:
    """The error that the other side raised, as the same class with the same variables.

    Without an ErrorInfo of ours: StoreUnavailable for UNAVAILABLE and DEADLINE_EXCEEDED
    (nothing answered, or not in time), ShuttingDown for CANCELLED (a call that we cancel
    ourselves raises asyncio.CancelledError instead), UnexplainedFault for the rest.
    """
    explanation = None
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes) and explanation is None:
            explanation = _error_info(_parsed(value))
    return _understood(error.code(), error.details() or "", explanation)


def from_rich_status(octets: bytes) -> DiscoError:
    """As `from_rpc_error`, of a google.rpc.Status that came in a message."""
    status = _parsed(octets)
    return _understood(_CODE_BY_NUMBER.get(status.code, _CODE.UNKNOWN), status.message, _error_info(status))


def _understood(code: grpc.StatusCode, text: str, explanation: error_details_pb2.ErrorInfo | None) -> DiscoError:
    if explanation is not None and explanation.domain == DOMAIN and explanation.reason in BY_REASON:
        return _rebuilt(BY_REASON[explanation.reason], explanation)
    match code:
        case _CODE.UNAVAILABLE | _CODE.DEADLINE_EXCEEDED:
            return StoreUnavailable()
        case _CODE.CANCELLED:
            return ShuttingDown()
        case _:
            return UnexplainedFault(status=code.name, text=text or "no text")


@contextmanager
def translated() -> Iterator[None]:
    """Raises what `from_rpc_error` says for an AioRpcError from the block."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _parsed(octets: bytes) -> status_pb2.Status:
    """Empty where it cannot be parsed: it is not ours."""
    try:
        return status_pb2.Status.FromString(octets)
    except DecodeError:
        return status_pb2.Status()


def _error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    """The first ErrorInfo. One that cannot be parsed counts as absent: it is not ours."""
    explanation = error_details_pb2.ErrorInfo()
    try:
        for detail in status.details:
            if detail.Is(explanation.DESCRIPTOR):
                detail.Unpack(explanation)
                return explanation
    except DecodeError:
        pass
    return None


def _rebuilt(kind: type[DiscoError], explanation: error_details_pb2.ErrorInfo) -> DiscoError:
    """Another version may send fewer variables than the sentence has blanks, or more, or odd names."""
    named = {_snake_case(key): value for key, value in explanation.metadata.items()}
    received = {name: value for name, value in named.items() if name.isidentifier() and name != "self"}
    blanks = {name: "?" for _, name, _, _ in Formatter().parse(kind.sentence) if name}
    return kind(**(blanks | received))


def _shortened(text: str, limit: int) -> str:
    encoded = text.encode("utf-8", errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "…"


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _snake_case(name: str) -> str:
    return re.sub(r"[A-Z]", lambda capital: "_" + capital.group().lower(), name)
