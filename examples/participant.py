"""A participant from a backend: trains on rows of its own and contributes weights over gRPC. Copy it.

    python -m examples.participant --address 127.0.0.1:50052 --name north --share 0/3 --until 12

It needs the generated stubs, grpcio, grpcio-status, numpy and, for the model, scikit-learn;
nothing else of Disco. Every round: read the newest version, train on it, send the weights with
their SHA-256, wait for the next round. Whatever is sent twice is counted once, so a call of
which nobody knows whether it took effect is simply made again (`again`).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc
import numpy as np
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

TASK_ID = "digits"
CHUNK_BYTES = 1 << 20
CALL_S = 20.0
PATIENCE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
NOBODY_ANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
TRAIN_AGAIN = ("ROUND_STALE", "ROUND_AHEAD")
EPOCHS = 5

Weights = list[np.ndarray]
Result = TypeVar("Result")


class Coordinator:
    """What a participant says to an aggregator; it knows weights, and nothing of how they are trained."""

    def __init__(self, channel: grpc.Channel, *, task_id: str, participant_id: str) -> None:
        self._stub = AggregatorServiceStub(channel)
        self._task_id = task_id
        self._participant_id = participant_id

    def join(self) -> None:
        """Makes us present, or renews our presence: rounds wait for those who are present."""
        request = messages.JoinTaskRequest(task_id=self._task_id, participant_id=self._participant_id)
        again(lambda: self._stub.JoinTask(request, timeout=CALL_S))

    def leave(self) -> None:
        """Nobody waits for us any longer; what we contributed stays."""
        request = messages.LeaveTaskRequest(task_id=self._task_id, participant_id=self._participant_id)
        again(lambda: self._stub.LeaveTask(request, timeout=CALL_S))

    def newest_version(self) -> tuple[int, Weights]:
        """The number of the newest version, and its tensors."""
        return self.read(None)

    def read(self, version: int | None) -> tuple[int, Weights]:
        """The number of a version, the newest for None, and its tensors."""
        return again(lambda: self._read(messages.ReadVersionRequest(task_id=self._task_id, version=version)))

    def contribute(self, weights: Weights, *, version: int, samples: int) -> int:
        """Sends weights that were trained from `version`, and gives the round in which they are counted, exactly once.

        Fails with ROUND_STALE where they come too late, and with ROUND_AHEAD where the task has gone back since, after
        a loss of power: read the newest version and train again.
        """
        body = b"".join(tensor.astype("<f4").tobytes() for tensor in weights)
        header = messages.SubmitContributionRequest.Header(
            task_id=self._task_id,
            participant_id=self._participant_id,
            round=version,
            sha256=hashlib.sha256(body).digest(),
            sample_count=samples,
        )

        def parts() -> Iterator[messages.SubmitContributionRequest]:
            yield messages.SubmitContributionRequest(header=header)
            for start in range(0, len(body), CHUNK_BYTES):
                yield messages.SubmitContributionRequest(weights_chunk=body[start : start + CHUNK_BYTES])

        answer = again(lambda: self._stub.SubmitContribution(parts(), timeout=CALL_S))
        return int(answer.receipt.round)

    def wait_for_version_after(self, version: int, *, within_s: float | None = None) -> None:
        """Returns when a newer version is there. Fails with DEADLINE_EXCEEDED after `within_s`, if that is given."""
        end = None if within_s is None else time.monotonic() + within_s
        again(lambda: self._watch(version, end), end=end)

    def _watch(self, version: int, end: float | None) -> None:
        left = None if end is None else max(end - time.monotonic(), 0)
        rounds = self._stub.WatchRounds(messages.WatchRoundsRequest(task_id=self._task_id), timeout=left)
        try:
            for update in rounds:
                if update.round.version > version:
                    return
        finally:
            rounds.cancel()

    def _read(self, request: messages.ReadVersionRequest) -> tuple[int, Weights]:
        parts = self._stub.ReadVersion(request, timeout=CALL_S)
        header = next(parts).header
        body = b"".join(part.weights_chunk for part in parts)
        if hashlib.sha256(body).digest() != header.sha256:
            raise ValueError(f"version {header.version} did not arrive as it was sent")
        tensors, start = [], 0
        for spec in header.weight_specs:
            count = int(np.prod(spec.shape, dtype=int))
            tensors.append(np.frombuffer(body, "<f4", count, offset=4 * start).reshape(tuple(spec.shape)))
            start += count
        return int(header.version), tensors


def again(attempt: Callable[[], Result], *, end: float | None = None) -> Result:
    """Repeats a call for a minute, while it fails as what may work in a moment: an aggregator may be starting just now.

    The pauses grow, are never shorter than the server asks for, and differ from those of others.
    """
    pause, fails_since = FIRST_PAUSE_S, math.inf
    while True:
        begun = time.monotonic()
        try:
            return attempt()
        except grpc.RpcError as error:
            now, asked = time.monotonic(), pause_asked_for(error)
            fails_since = min(fails_since, now) if now - begun < PATIENCE_S else now  # it had worked for long
            if asked is None or now - fails_since > PATIENCE_S or (end is not None and now >= end):
                raise
        time.sleep(asked + random.uniform(0.5, 1.0) * pause)  # noqa: S311 (nobody gains by guessing it)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def pause_asked_for(error: grpc.RpcError) -> float | None:
    """Seconds to wait at least before the same call is made again; None where that would change nothing.

    Whatever comes with a RetryInfo may be repeated; so may what nobody of Disco answered: a
    connection that broke, or a call that took too long on its way.
    """
    status = rpc_status.from_call(error)
    retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
        detail.Unpack(info)
    return 0.0 if not info.reason and error.code() in NOBODY_ANSWERED else None


def reason_of(error: grpc.RpcError) -> str:
    """Why a call was refused: a name of disco.errors.v1.ErrorReason, or nothing."""
    info, status = error_details_pb2.ErrorInfo(), rpc_status.from_call(error)
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return str(info.reason)
    return ""


class DigitsModel:
    """scikit-learn's perceptron as the task `digits` has it: weights are kernel, bias, kernel, bias."""

    def __init__(self, pixels: np.ndarray, digits: np.ndarray) -> None:
        self._pixels, self._digits = pixels, digits
        self._classifier = MLPClassifier(
            hidden_layer_sizes=(32,), activation="relu", solver="adam", batch_size=32, random_state=0
        )
        # The tensors exist from the first step on; what that step learns is overwritten.
        self._classifier.partial_fit(pixels[:32], digits[:32], classes=np.arange(10))

    def train(self, weights: Weights) -> Weights:
        """The weights after some epochs on our own rows."""
        for tensor, value in zip(self._tensors(), weights, strict=True):
            tensor[...] = value
        for _ in range(EPOCHS):
            self._classifier.partial_fit(self._pixels, self._digits)
        return self._tensors()

    def _tensors(self) -> Weights:
        layers = zip(self._classifier.coefs_, self._classifier.intercepts_, strict=True)
        return [tensor for layer in layers for tensor in layer]


def rows(share: str) -> tuple[np.ndarray, np.ndarray]:
    """Our part of the training rows: "0/3" is the first of three that have no row in common."""
    index, count = (int(number) for number in share.split("/"))
    pixels, _, digits, _ = split()
    return pixels[index::count], digits[index::count]


def split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training pixels, held-out pixels, training digits, held-out digits; a quarter is held out."""
    images = load_digits()
    pixels = (images.data / 16.0).astype(np.float32)
    parts: tuple[np.ndarray, ...] = tuple(train_test_split(pixels, images.target, test_size=0.25, random_state=0))
    return parts[0], parts[1], parts[2], parts[3]


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the task `digits` together with others.")
    parser.add_argument("--address", default="127.0.0.1:50052", help="gRPC target of the aggregators")
    parser.add_argument("--name", required=True, help="who we are in the task")
    parser.add_argument("--share", default="0/1", help="which of how many parts of the rows is ours")
    parser.add_argument("--until", type=int, default=sys.maxsize, help="version after which to leave; absent: never")
    arguments = parser.parse_args()
    pixels, digits = rows(arguments.share)
    model = DigitsModel(pixels, digits)
    with grpc.insecure_channel(arguments.address) as channel:
        coordinator = Coordinator(channel, task_id=TASK_ID, participant_id=arguments.name)
        take_part(coordinator, model, samples=len(digits), until=arguments.until)


def take_part(coordinator: Coordinator, model: DigitsModel, *, samples: int, until: int) -> None:
    """Contributes to every round until version `until` is there."""
    coordinator.join()
    version, weights = coordinator.newest_version()
    while version < until:
        try:
            counted_in = coordinator.contribute(model.train(weights), version=version, samples=samples)
        except grpc.RpcError as error:
            if reason_of(error) not in TRAIN_AGAIN:
                raise
        else:
            # A round starts from the version of its own number and makes the next one. A late contribution is
            # counted in a later round, which perhaps nobody waits for.
            if counted_in < until:
                coordinator.wait_for_version_after(counted_in)
        coordinator.join()
        version, weights = coordinator.newest_version()
    coordinator.leave()


if __name__ == "__main__":
    main()
