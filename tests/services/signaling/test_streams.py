"""What waits to be written to one peer: its order, its bound, its end."""

from __future__ import annotations

import asyncio

import pytest

from learning.decentralized import Group, Seat
from learning.ids import PeerId, TaskId
from learning.refusals import PeerNotConnected, PeerReplaced, ShuttingDown, SlowConsumer
from roundstore.peer_store import Signal
from services.signaling import streams
from services.signaling.streams import Message, OpenStream, PeerList, SignalRefused

ONE, TWO, THREE = PeerId("1"), PeerId("2"), PeerId("3")


def a_stream(*, opened: bool = True) -> OpenStream:
    stream = OpenStream(TaskId("task"), Seat(ONE, "t", "", 0, 0.0, None), next_round=0)
    if opened:
        stream.open(())
    return stream


def signal(body: bytes) -> Signal:
    return Signal(TWO, ONE, body)


async def messages(stream: OpenStream, count: int) -> list[Message]:
    async with asyncio.timeout(5):
        return [await stream.next_message() for _ in range(count)]


async def test_messages_come_in_their_order() -> None:
    stream = a_stream()
    refused = PeerNotConnected(peer_id=THREE)
    stream.introduce(Group(4, (ONE, TWO, THREE)))
    stream.signal(signal(b"a"))
    stream.refuse(THREE, refused)
    assert await messages(stream, 3) == [PeerList(4, (TWO, THREE)), signal(b"a"), SignalRefused(THREE, refused)]
    assert stream.next_round == 5


async def test_whoever_waits_for_a_message_gets_the_next_one() -> None:
    stream = a_stream()
    waiting = asyncio.create_task(stream.next_message())
    await asyncio.sleep(0)
    stream.signal(signal(b"a"))
    assert await waiting == signal(b"a")


async def test_signals_that_come_while_a_stream_opens_stay_behind_those_that_waited() -> None:
    stream = a_stream(opened=False)
    stream.introduce(Group(0, (ONE, TWO)))
    stream.signal(signal(b"came meanwhile"))
    stream.open([signal(b"waited")])
    stream.signal(signal(b"later"))
    bodies = [message.body for message in (await messages(stream, 4))[1:] if isinstance(message, Signal)]
    assert bodies == [b"waited", b"came meanwhile", b"later"]


async def test_the_first_end_counts_and_overtakes_what_is_queued() -> None:
    stream = a_stream()
    stream.signal(signal(b"a"))
    stream.end(PeerReplaced(peer_id=ONE))
    stream.end(ShuttingDown())
    with pytest.raises(PeerReplaced):
        await stream.next_message()


@pytest.mark.parametrize("opened", [True, False])
async def test_a_peer_that_leaves_too_many_messages_unread_is_too_slow(
    monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    monkeypatch.setattr(streams, "MAX_MESSAGES", 3)
    stream = a_stream(opened=opened)
    for _ in range(4):
        stream.signal(signal(b""))
    stream.open(())
    with pytest.raises(SlowConsumer):
        await stream.next_message()


@pytest.mark.parametrize("opened", [True, False])
async def test_a_peer_that_leaves_too_many_bytes_unread_is_too_slow(
    monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    monkeypatch.setattr(streams, "MAX_BYTES", 10)
    stream = a_stream(opened=opened)
    stream.signal(signal(bytes(10)))
    stream.signal(signal(bytes(1)))
    with pytest.raises(SlowConsumer):
        await stream.next_message()


async def test_bytes_that_were_read_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BYTES", 10)
    stream = a_stream(opened=False)
    stream.signal(signal(bytes(10)))
    stream.open(())
    for _ in range(5):
        assert await messages(stream, 1) == [signal(bytes(10))]
        stream.signal(signal(bytes(10)))
