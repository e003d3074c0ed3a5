"""Prepared frames are what the clients of their dialect would send."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from bench.frames import VARIANTS, Prepared, byte_array_contribution, float32_contribution, small_frame
from gateway.dialects.dialect import Dialect
from gateway.dialects.messages import Contribute, Hello
from gateway.dialects.registry import DIALECTS

SHAPES = ((40, 30), (30,))
WEIGHTS = np.random.default_rng(1).normal(0, 0.05, 1230).astype("<f4")
KINDS = [("gdv", float32_contribution), ("g21", byte_array_contribution)]


def received(frame: bytes) -> bytes:
    """What a WebSocket server makes of a frame."""
    reader = StreamReader()
    reader.feed_data(frame)
    with pytest.raises(StopIteration) as whole:
        next(Frame.parse(reader.read_exact, mask=True))
    assert (whole.value.value.opcode, whole.value.value.fin) == (Opcode.BINARY, True)
    assert next_is_end(reader)
    return bytes(whole.value.value.data)


def next_is_end(reader: StreamReader) -> bool:
    reader.feed_eof()
    with pytest.raises(StopIteration) as end:
        next(reader.at_eof())
    return bool(end.value.value)


@pytest.mark.parametrize(("dialect", "prepare"), KINDS)
def test_the_gateway_reads_what_was_prepared(dialect: str, prepare: Callable[..., Prepared]) -> None:
    prepared = prepare(WEIGHTS, SHAPES)
    frame = b"".join(prepared.parts(70_000, 0))
    assert len(frame) == prepared.size
    message = decoded(DIALECTS[dialect], frame)
    assert (message.round, message.shapes) == (70_000, SHAPES)
    expected = WEIGHTS.copy()
    expected[0] = 1.0
    assert bytes(message.weights) == expected.tobytes()


@pytest.mark.parametrize(("dialect", "prepare"), KINDS)
def test_every_variant_is_another_contribution(dialect: str, prepare: Callable[..., Prepared]) -> None:
    prepared = prepare(WEIGHTS, SHAPES)
    some = [*range(300), VARIANTS - 1]
    firsts = set()
    for variant in some:
        weights = np.frombuffer(decoded(DIALECTS[dialect], b"".join(prepared.parts(0, variant))).weights, "<f4")
        assert weights[1:].tobytes() == WEIGHTS[1:].tobytes()
        firsts.add(float(weights[0]))
    assert len(firsts) == len(some)
    assert all(0.9 < first < 2.1 for first in firsts)


def test_a_small_frame_is_a_whole_message() -> None:
    assert DIALECTS["gdv"].decode_federated(received(small_frame(type=0)), 1000) == Hello()


def decoded(dialect: Dialect, frame: bytes) -> Contribute:
    message = dialect.decode_federated(received(frame), 1 << 30)
    assert isinstance(message, Contribute)
    return message
