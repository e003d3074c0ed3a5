"""The participant to copy repeats what the contract says may be repeated, and nothing else."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc
import pytest
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1 import aggregator_service_pb2_grpc, round_pb2
from grpc_status import rpc_status

from examples import participant
from examples.participant import Coordinator, pause_asked_for, reason_of
from learning.refusals import DiscoError, RoundAhead, RoundStale, ShuttingDown, StoreUnavailable
from rpc.status import RETRY_DELAY_S, to_rich_status


class Answering(aggregator_service_pb2_grpc.AggregatorServiceServicer):
    """Fails with what stands in `failures`, one after the other, and then answers."""

    def __init__(self, *failures: DiscoError | grpc.StatusCode) -> None:
        self.failures = list(failures)
        self.calls = 0

    def JoinTask(self, request: Any, context: Any) -> messages.JoinTaskResponse:  # noqa: N802
        self.calls += 1
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, DiscoError):
                context.abort_with_status(rpc_status.to_status(to_rich_status(failure)))
            context.abort(failure, "")
        return messages.JoinTaskResponse(round=round_pb2.Round())


def joined(servicer: Answering) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    aggregator_service_pb2_grpc.add_AggregatorServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            Coordinator(channel, task_id="digits", participant_id="a").join()
    finally:
        server.stop(None).wait()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, instead of sleeping it."""
    slept: list[float] = []
    monkeypatch.setattr(participant.time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize(
    "failure",
    [
        StoreUnavailable(),
        ShuttingDown(),
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    ],
)
def test_what_may_work_in_a_moment_is_made_again(failure: DiscoError | grpc.StatusCode, pauses: list[float]) -> None:
    servicer = Answering(failure, failure, failure)
    joined(servicer)
    assert servicer.calls == 4
    assert len(pauses) == 3
    assert min(pauses) > 0


@pytest.mark.parametrize(
    "failure", [RoundStale(round=1, current_round=3), RoundAhead(round=3, current_round=1), grpc.StatusCode.INTERNAL]
)
def test_what_stays_refused_is_asked_once(failure: DiscoError | grpc.StatusCode) -> None:
    servicer = Answering(failure)
    with pytest.raises(grpc.RpcError) as raised:
        joined(servicer)
    assert servicer.calls == 1
    assert pause_asked_for(raised.value) is None
    assert reason_of(raised.value) == (failure.reason if isinstance(failure, DiscoError) else "")


def test_no_pause_is_shorter_than_the_server_asks_for(pauses: list[float]) -> None:
    joined(Answering(StoreUnavailable()))
    assert pauses[-1] > RETRY_DELAY_S > 0
