"""The table of reasons and statuses, and errors that cross the wire."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import grpc
import pytest
from disco.errors.v1.error_reason_pb2 import ErrorReason
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from learning.refusals import (
    BY_REASON,
    DiscoError,
    Fault,
    InternalError,
    InvalidTask,
    RoundStale,
    ShuttingDown,
    StoreUnavailable,
    TaskNotFound,
    TooLarge,
)
from rpc.status import (
    DETAILS_KEY,
    STATUS_BY_REASON,
    UnexplainedFault,
    from_rich_status,
    from_rpc_error,
    to_rich_status,
    translated,
)
from tests.rpc.echo_service import call, echo_handlers, running

PROTO = Path(__file__).parents[2] / "protos/disco/errors/v1/error_reason.proto"


def blanks_of(kind: type[DiscoError]) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(kind.sentence) if name]


def example_of(kind: type[DiscoError]) -> DiscoError:
    return kind(**{name: f"<{name}>" for name in blanks_of(kind)})


def rpc_error(status: status_pb2.Status) -> grpc.aio.AioRpcError:
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailing = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=status.message)


def plain_error(code: grpc.StatusCode, text: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=text)


def explained_error(explanation: error_details_pb2.ErrorInfo) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=grpc.StatusCode.ABORTED.value[0], message="text")
    status.details.add().Pack(explanation)
    return rpc_error(status)


def promised_by_the_proto() -> dict[str, tuple[str, list[str]]]:
    """For each reason: the status and the metadata keys that its comment names."""
    promises = {}
    pattern = re.compile(r"((?:  //[^\n]*\n)+)  ERROR_REASON_(\w+) = \d+;")
    for comment, reason in pattern.findall(PROTO.read_text(encoding="utf-8")):
        if reason == "UNSPECIFIED":
            continue
        text = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        statuses = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", text)) & {code.name for code in grpc.StatusCode}
        assert len(statuses) == 1, f"{reason} must name one status: {text}"
        metadata = re.search(r"metadata: ([\w, ]+)\.", text)
        promises[reason] = (statuses.pop(), re.split(r",\s*", metadata.group(1)) if metadata else [])
    return promises


def test_every_reason_of_the_protos_has_a_class_and_a_status() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert reasons == BY_REASON.keys()
    assert reasons == STATUS_BY_REASON.keys()


def test_every_status_is_the_one_the_protos_promise() -> None:
    promised = {reason: status for reason, (status, _) in promised_by_the_proto().items()}
    assert promised == {reason: code.name for reason, code in STATUS_BY_REASON.items()}


def test_every_error_carries_the_metadata_the_protos_promise() -> None:
    promised = {reason: sorted(keys) for reason, (_, keys) in promised_by_the_proto().items()}
    carried = {}
    for reason, kind in BY_REASON.items():
        explanation = error_details_pb2.ErrorInfo()
        to_rich_status(example_of(kind)).details[0].Unpack(explanation)
        carried[reason] = sorted(explanation.metadata)
    # The task creation sentence has a blank for people that is no promise to programs.
    carried["TASK_CREATION_DENIED"].remove("problem")
    assert carried == promised


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=BY_REASON)
def test_an_error_arrives_as_the_same_class_with_the_same_variables(kind: type[DiscoError]) -> None:
    sent = example_of(kind)
    status = to_rich_status(sent)
    for received in (from_rpc_error(rpc_error(status)), from_rich_status(status.SerializeToString())):
        assert type(received) is kind
        assert received.variables == sent.variables
        assert str(received) == str(sent)


def test_status_in_a_message_that_names_no_reason_of_ours_is_judged_by_its_code() -> None:
    gone = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="gone")
    assert type(from_rich_status(gone.SerializeToString())) is StoreUnavailable
    foreign = status_pb2.Status(code=grpc.StatusCode.UNIMPLEMENTED.value[0], message="no {method}")
    assert str(from_rich_status(foreign.SerializeToString())) == "A service answered UNIMPLEMENTED: no {method}"
    assert (
        str(from_rich_status(status_pb2.Status(code=4711).SerializeToString())) == "A service answered UNKNOWN: no text"
    )


@given(st.binary())
def test_no_bytes_at_all_can_break_the_reading_of_a_status(octets: bytes) -> None:
    assert isinstance(from_rich_status(octets), DiscoError)


def test_a_stale_round_travels_with_reason_domain_and_both_rounds() -> None:
    status = to_rich_status(RoundStale(round=3, current_round=5))
    assert status.code == 10
    assert len(status.details) == 1
    explanation = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(explanation)
    assert (explanation.domain, explanation.reason) == ("disco", "ROUND_STALE")
    assert dict(explanation.metadata) == {"round": "3", "currentRound": "5"}
    assert status.message.startswith("Round 3 is over; round 5 is collecting.")


def test_an_error_that_names_a_field_carries_a_field_violation() -> None:
    status = to_rich_status(InvalidTask(field="display.title", problem="is missing"))
    violations = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(violations)
    (violation,) = violations.field_violations
    assert (violation.field, violation.description) == ("display.title", "is missing")


@pytest.mark.parametrize("kind", [StoreUnavailable, ShuttingDown])
def test_an_unavailable_fault_says_when_to_try_again(kind: type[DiscoError]) -> None:
    status = to_rich_status(kind())
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 100


def test_a_refusal_says_nothing_of_trying_again() -> None:
    assert len(to_rich_status(TaskNotFound(task_id="a")).details) == 1


def test_an_explanation_with_missing_variables_is_rebuilt_with_blanks() -> None:
    received = from_rpc_error(
        explained_error(error_details_pb2.ErrorInfo(domain="disco", reason="ROUND_STALE", metadata={"round": "3"}))
    )
    assert type(received) is RoundStale
    assert received.variables == {"round": "3", "current_round": "?"}


def test_surplus_variables_are_kept_and_impossible_names_are_dropped() -> None:
    metadata = {"limitBytes": "7", "hint": "split it", "self": "x", "": "x", "a b": "x"}
    explanation = error_details_pb2.ErrorInfo(domain="disco", reason="TOO_LARGE", metadata=metadata)
    received = from_rpc_error(explained_error(explanation))
    assert type(received) is TooLarge
    assert received.variables == {"limit_bytes": "7", "hint": "split it"}


@given(st.dictionaries(st.text(), st.text()), st.sampled_from(sorted(BY_REASON)))
def test_no_metadata_at_all_can_break_the_rebuilding(metadata: dict[str, str], reason: str) -> None:
    explanation = error_details_pb2.ErrorInfo(domain="disco", reason=reason, metadata=metadata)
    assert type(from_rpc_error(explained_error(explanation))) is BY_REASON[reason]


@pytest.mark.parametrize(
    "explanation",
    [
        error_details_pb2.ErrorInfo(domain="disco", reason="QUOTA_OF_NEXT_YEAR", metadata={"taskId": "a"}),
        error_details_pb2.ErrorInfo(domain="proxy.example", reason="TASK_NOT_FOUND"),
    ],
    ids=["reason of a newer server", "domain of a proxy"],
)
def test_a_foreign_explanation_becomes_a_fault_that_still_carries_the_text(
    explanation: error_details_pb2.ErrorInfo,
) -> None:
    received = from_rpc_error(explained_error(explanation))
    assert isinstance(received, Fault)
    assert type(received) is UnexplainedFault
    assert str(received) == "A service answered ABORTED: text"
    assert received.reason in STATUS_BY_REASON


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, StoreUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, StoreUnavailable),
        (grpc.StatusCode.CANCELLED, ShuttingDown),
        (grpc.StatusCode.UNIMPLEMENTED, UnexplainedFault),
        (grpc.StatusCode.UNAUTHENTICATED, UnexplainedFault),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, UnexplainedFault),
        (grpc.StatusCode.UNKNOWN, UnexplainedFault),
    ],
)
def test_a_plain_status_becomes_a_fault(code: grpc.StatusCode, kind: type[DiscoError]) -> None:
    assert type(from_rpc_error(plain_error(code, "{braces} and all"))) is kind


def test_an_unexplained_fault_names_status_and_text_even_with_braces() -> None:
    received = from_rpc_error(plain_error(grpc.StatusCode.UNIMPLEMENTED, "no {method}"))
    assert str(received) == "A service answered UNIMPLEMENTED: no {method}"


def test_an_unexplained_fault_passes_a_second_service_as_an_internal_error() -> None:
    received = from_rpc_error(plain_error(grpc.StatusCode.UNIMPLEMENTED, "no"))
    again = from_rpc_error(rpc_error(to_rich_status(received)))
    assert type(again) is InternalError


@pytest.mark.parametrize(
    "details", [b"\xff\xff\xff", b"", status_pb2.Status(details=[AnyMessage()]).SerializeToString()]
)
def test_details_that_cannot_be_read_count_as_absent(details: bytes) -> None:
    trailing = grpc.aio.Metadata((DETAILS_KEY, details))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, details="gone")
    assert type(from_rpc_error(error)) is StoreUnavailable


def test_details_that_pretend_to_be_an_explanation_count_as_absent() -> None:
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    status = status_pb2.Status(code=14, details=[broken])
    assert type(from_rpc_error(rpc_error(status))) is StoreUnavailable


def test_translated_lets_other_exceptions_through() -> None:
    with pytest.raises(ValueError, match="mine"), translated():
        raise ValueError("mine")


def test_translated_keeps_the_rpc_error_as_the_cause() -> None:
    with pytest.raises(StoreUnavailable) as caught, translated():
        raise plain_error(grpc.StatusCode.UNAVAILABLE)
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)


@pytest.mark.parametrize("letter", ["a", "é", "漢", "\ud800"], ids=["1 byte", "2 bytes", "3 bytes", "broken"])
async def test_very_long_variables_arrive_shortened_rather_than_break_the_answer(letter: str) -> None:
    async def body(_request: bytes, _context: object) -> None:
        raise InvalidTask(field="display.title", problem=letter * 100_000)

    async with running(echo_handlers(body)) as server, grpc.aio.insecure_channel(server.target) as channel:
        with pytest.raises(InvalidTask) as caught, translated():
            await call(channel, "UnaryUnary")
    assert caught.value.variables["field"] == "display.title"
    assert caught.value.variables["problem"].endswith("…")
    assert 450 <= len(caught.value.variables["problem"].encode()) <= 512
