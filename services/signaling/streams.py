"""One open stream of a peer: what waits to be written to it, and how it ends.

    opening   signals are held back until those that waited in the store are out
    open      everything is queued in its order
    over      `next_message` raises what ended it, whatever is still queued

Knows no gRPC and no store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from learning.decentralized import Group, Seat
from learning.ids import PeerId, TaskId
from learning.refusals import DiscoError, SlowConsumer
from roundstore.peer_store import Signal

MAX_MESSAGES = 2048
MAX_BYTES = 8 << 20
"""More than this is not queued for one peer: it does not read."""


@dataclass(frozen=True, slots=True)
class PeerList:
    """The peers of a round, without the receiver."""

    round: int
    peer_ids: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class SignalRefused:
    """A signal could not be delivered."""

    to: PeerId
    error: DiscoError


Message = PeerList | Signal | SignalRefused


class OpenStream:
    """A peer's stream on this replica. `next_round` is the first round whose list it has not been sent."""

    def __init__(self, task_id: TaskId, seat: Seat, *, next_round: int) -> None:
        self.task_id = task_id
        self.seat = seat
        self.next_round = next_round
        self.taking = asyncio.Lock()
        """Held while signals are brought here from the store, so that they stay in their order."""
        self._queue: deque[Message] = deque()
        self._bytes = 0
        self._held_back: list[Signal] | None = []
        self._ended: DiscoError | None = None
        self._news = asyncio.Event()

    def introduce(self, group: Group) -> None:
        """Sends the list of a group, and never again that of this round or an earlier one."""
        assert group.round >= self.next_round, "a list is sent once"
        self.next_round = group.round + 1
        self._put(PeerList(group.round, group.others(self.seat.peer_id)), size=0)

    def signal(self, signal: Signal) -> None:
        if self._held_back is not None:
            self._held_back.append(signal)
            self._count(len(signal.body))
        else:
            self._put(signal, size=len(signal.body))

    def refuse(self, to: PeerId, error: DiscoError) -> None:
        self._put(SignalRefused(to, error), size=0)

    def open(self, waited: Iterable[Signal]) -> None:
        """Ends the opening: first the signals that waited for this stream, then those that came meanwhile."""
        held_back, self._held_back = self._held_back, None
        for signal in waited:
            self._put(signal, size=len(signal.body))
        for signal in held_back or ():
            self._put(signal, size=0)  # counted when it came

    def end(self, error: DiscoError) -> None:
        """Ends the stream with an error; the first one counts."""
        self._ended = self._ended or error
        self._news.set()

    async def next_message(self) -> Message:
        """The next message to write. Raises what ended the stream."""
        while True:
            if self._ended is not None:
                raise self._ended
            if self._queue:
                message = self._queue.popleft()
                self._bytes -= len(message.body) if isinstance(message, Signal) else 0
                return message
            self._news.clear()
            await self._news.wait()

    def _put(self, message: Message, *, size: int) -> None:
        if self._ended is not None:
            return
        self._queue.append(message)
        self._count(size)
        self._news.set()

    def _count(self, size: int) -> None:
        self._bytes += size
        waiting = len(self._queue) + len(self._held_back or ())
        if self._bytes > MAX_BYTES or waiting > MAX_MESSAGES:
            self._queue.clear()
            self._held_back = None
            self.end(SlowConsumer())
