"""The fields of a frame, by name: found, but not read until somebody asks.

Knows that a frame is a map and that one of its fields holds weights; not what
the fields mean, nor which dialect has them.
"""

from __future__ import annotations

from typing import Final

from gateway.dialects import weights_document
from gateway.dialects.frame_reader import FrameReader
from gateway.dialects.messages import Contribute, Room, UnusableContribution
from learning.refusals import InvalidWeights, MalformedMessage, TooLarge, WeightsNotFinite

MAX_PEER_FRAME_BYTES: Final = 64 * 1024
"""Frames of decentralized tasks carry session descriptions, never weights."""


class FrameFields:
    """The fields of one frame. `weights` names the one whose end only reading it finds; "" where there is none."""

    def __init__(self, frame: bytes, *, weights: str = "") -> None:
        self._frame = frame
        self._spans: dict[str, tuple[int, int]] = {}
        self._weights_name = weights
        self._weights: memoryview | MalformedMessage | None = None
        reader = FrameReader(frame)
        for _ in range(reader.map_size()):
            key = reader.text()
            if key in self._spans:
                raise MalformedMessage(problem=f"it has the field {key[:64]!r} twice")
            start = reader.at
            if key == weights:
                self._weights = _bytes_or_problem(reader)
            else:
                reader.skip()
            self._spans[key] = start, reader.at
        reader.end()

    def count(self, key: str) -> int:
        return self._reader(key).count()

    def text(self, key: str) -> str:
        return self._reader(key).text()

    def weights(self) -> memoryview:
        """The document in the field with the weights."""
        if self._weights is None:
            raise MalformedMessage(problem=f"it has no field {self._weights_name!r}")
        if isinstance(self._weights, MalformedMessage):
            raise self._weights
        return self._weights

    def contribution(self, limit: int, room: Room) -> Contribute | UnusableContribution:
        """The contribution, also where its weights are of no use: its client may wait for an answer all the same."""
        number = self.count("round")
        try:
            weights, shapes = weights_document.decode(self.weights(), limit, room)
        except (InvalidWeights, WeightsNotFinite, TooLarge, MalformedMessage) as refusal:
            return UnusableContribution(number, refusal)
        return Contribute(weights, shapes, number)

    def signal(self) -> bytes:
        """The encoding of a signal, unread. It is what simple-peer makes: a map of plain values.

        Anything else would be thrown by the receiver's library and end the receiver, not the sender.
        """
        reader = self._reader("signal")
        if not reader.is_map():
            raise MalformedMessage(problem="the signal is no map")
        reader.skip(extensions=False)
        start, end = self._spans["signal"]
        return self._frame[start:end]

    def _reader(self, key: str) -> FrameReader:
        if key not in self._spans:
            raise MalformedMessage(problem=f"it has no field {key!r}")
        reader = FrameReader(self._frame)
        reader.at = self._spans[key][0]
        return reader


def peer_fields(frame: bytes) -> FrameFields:
    """The fields of a frame on a decentralized task's socket. Raises TooLarge."""
    if len(frame) > MAX_PEER_FRAME_BYTES:
        raise TooLarge(limit_bytes=MAX_PEER_FRAME_BYTES)
    return FrameFields(frame)


def federated_fields(frame: bytes, limit: int, *, weights: str) -> FrameFields:
    """The fields of a frame on a federated task's socket. Raises TooLarge."""
    if len(frame) > limit:
        raise TooLarge(limit_bytes=limit)
    return FrameFields(frame, weights=weights)


def _bytes_or_problem(reader: FrameReader) -> memoryview | MalformedMessage:
    """The bytes that come next; where something else comes, which is stepped over, why they are none."""
    start = reader.at
    try:
        return reader.byte_array()
    except MalformedMessage as problem:
        reader.at = start
        try:
            reader.skip()
        except MalformedMessage:
            raise problem from None
        return problem
