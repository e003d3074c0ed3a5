"""One peer's socket in a decentralized task, without the socket.

Knows no gRPC, no frames and no clock; driven like `FederatedSession`. The peer's
presence is a stream to the signaling service. Streams break, sockets must not:
the session takes a broken stream up again with the peer's id and token, says
once more that the peer is ready, and keeps what the peer wants sent until then.

    state      Hello          other messages         lost
    ─────────  ─────────────  ─────────────────────  ──────
    CONNECTED  → JOINED       refused                → LEFT
    JOINED     welcome again  sent, or kept for it   → LEFT
    LEFT       –              –                      –

Clients throw on a signal from a peer they have not been told of, and on one that
comes in the same read as the list that names it. So a signal waits until
`LIST_SETTLES_S` after the first list with its sender went out, and is dropped
where no such list comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from gateway.dialects.messages import (
    ClientMessage,
    Hello,
    JoinRound,
    MarkReady,
    PeersForRound,
    PeerWelcome,
    ServerMessage,
    SignalFrom,
    SignalTo,
)
from learning.refusals import DiscoError, MalformedMessage, PeerReplaced, SlowConsumer, TooLarge

LIST_SETTLES_S = 0.05
SIGNAL_WAITS_S = 10.0
MAX_SIGNAL_BYTES = 64 << 10
MAX_SIGNALS_KEPT = 1024
MAX_BYTES_KEPT = 4 << 20
"""Bounds on the signals kept in each direction."""
RETRY_FIRST_S = 0.1
RETRY_LAST_S = 2.0


class State(Enum):
    CONNECTED = "connected"
    JOINED = "joined"
    LEFT = "left"


# Calls: orders to whoever drives the session. All but StartSession concern the stream that is open.


@dataclass(frozen=True, slots=True)
class StartSession:
    """Open a stream; answered by `SessionStarted`, `StreamBroken` or `SessionRefused`."""

    peer_id: str
    session_token: str
    next_round: int
    client_id: str


@dataclass(frozen=True, slots=True)
class AskForPeers:
    """`patience_s` is None where the peer waits for ever."""

    patience_s: float | None


@dataclass(frozen=True, slots=True)
class SendSignal:
    peer_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class EndSession:
    """Close the stream. `give_up_seat`: nobody will come back for it."""

    give_up_seat: bool


@dataclass(frozen=True, slots=True)
class CountDropped:
    """Signals that nobody will get."""

    reason: str
    signals: int


Call = StartSession | AskForPeers | SendSignal | EndSession | CountDropped


# Events: facts that whoever drives the session reports.


@dataclass(frozen=True, slots=True)
class SessionStarted:
    peer_id: str
    session_token: str


@dataclass(frozen=True, slots=True)
class StreamBroken:
    """The stream is gone, or could not be opened; it may work later. `unsent` had not been written to it."""

    unsent: tuple[SendSignal, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """The service does not want this session, now or later."""

    error: DiscoError


@dataclass(frozen=True, slots=True)
class PeersListed:
    round: int
    peer_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignalArrived:
    peer_id: str
    body: bytes


Event = SessionStarted | StreamBroken | SessionRefused | PeersListed | SignalArrived


class DecentralizedSession:
    """See the module's docstring."""

    def __init__(self, *, client_id: str, patience_s: float | None) -> None:
        self._client_id = client_id
        self._patience_s = patience_s
        self.state = State.CONNECTED
        self._stream_is_open = False
        self._peer_id = ""
        self._session_token = ""
        self._next_round = 0
        self._is_ready = False
        self._ready_until: float | None = None
        self._retry_at: float | None = None
        self._retry_s = RETRY_FIRST_S
        self._to_send = _Signals()
        self._to_deliver = _Signals()
        self._known_from: dict[str, float] = {}
        self._calls: list[Call] = []
        self._messages: list[ServerMessage] = []

    # In.

    def receive(self, message: ClientMessage, now: float) -> None:
        """Raises MalformedMessage, TooLarge or SlowConsumer; that costs the message only."""
        if self.state is State.CONNECTED and not isinstance(message, Hello):
            raise MalformedMessage(problem="the peer has not introduced itself yet")
        match message:
            case Hello():
                self._greet()
            case JoinRound():
                pass  # the service waits for every member of a standing group, whether it said so or not
            case MarkReady():
                self._is_ready = True
                self._ready_until = None if self._patience_s is None else now + self._patience_s
                if self._stream_is_open:
                    self._calls.append(AskForPeers(self._patience_s))
            case SignalTo(peer_id, body):
                if len(body) > MAX_SIGNAL_BYTES:
                    raise TooLarge(limit_bytes=MAX_SIGNAL_BYTES)
                if self._stream_is_open:
                    self._calls.append(SendSignal(peer_id, body))
                else:
                    self._to_send.keep(peer_id, body, now)
            case _:
                raise MalformedMessage(
                    problem="weights and metadata are not sent to the server in a decentralized task"
                )

    def deliver(self, event: Event, now: float) -> None:
        """Raises the refusal that ends the socket, too."""
        match event:
            case SessionStarted(peer_id, session_token):
                self._started(peer_id, session_token, now)
            case StreamBroken(unsent):
                self._broke(unsent, now)
            case SessionRefused(error):
                self._stream_is_open = False
                raise error
            case PeersListed(round, peer_ids):
                self._list_peers(round, peer_ids, now)
            case SignalArrived(peer_id, body):
                self._keep(self._to_deliver, peer_id, body, now)
        self.tick(now)

    def tick(self, now: float) -> None:
        if self._retry_at is not None and now >= self._retry_at and self.state is State.JOINED:
            self._retry_at = None
            self._calls.append(StartSession(self._peer_id, self._session_token, self._next_round, self._client_id))
        for peer_id, body in self._to_deliver.take(peer for peer, known in self._known_from.items() if now >= known):
            self._messages.append(SignalFrom(peer_id, body))
        for signals in (self._to_send, self._to_deliver):
            if dropped := signals.drop_older_than(now - SIGNAL_WAITS_S):
                self._calls.append(CountDropped("PEER_NOT_CONNECTED", dropped))

    def lost(self, now: float, *, orderly: bool) -> None:
        """The socket is gone. A client that has an id of its own may come back for its seat, unless it said goodbye."""
        if self.state is State.JOINED:
            self._calls.append(EndSession(give_up_seat=orderly or not self._client_id))
        self.state = State.LEFT
        self._retry_at = None

    # Out.

    def take_calls(self) -> list[Call]:
        calls, self._calls = self._calls, []
        return calls

    def take_messages(self) -> list[ServerMessage]:
        messages, self._messages = self._messages, []
        return messages if self.state is State.JOINED else []

    def wake_at(self) -> float | None:
        """When `tick` must be called although nothing happened; None: no need."""
        if self.state is State.LEFT:
            return None
        moments = [known for peer, known in self._known_from.items() if self._to_deliver.holds(peer)]
        moments += [
            oldest + SIGNAL_WAITS_S for oldest in (self._to_send.oldest, self._to_deliver.oldest) if oldest is not None
        ]
        if self._retry_at is not None:
            moments.append(self._retry_at)
        return min(moments, default=None)

    # What follows.

    def _greet(self) -> None:
        if self.state is State.CONNECTED:
            self.state = State.JOINED
            self._calls.append(StartSession("", "", 0, self._client_id))
        elif self._peer_id:
            self._messages.append(PeerWelcome(self._peer_id))

    def _started(self, peer_id: str, session_token: str, now: float) -> None:
        if not self._peer_id:
            self._messages.append(PeerWelcome(peer_id))
        elif peer_id != self._peer_id:
            # The seat is gone and no client can change its id: only a new socket helps.
            raise PeerReplaced(peer_id=self._peer_id)
        self._peer_id, self._session_token = peer_id, session_token
        self._stream_is_open = True
        self._retry_s = RETRY_FIRST_S
        if self._is_ready and (self._ready_until is None or self._ready_until > now):
            self._calls.append(AskForPeers(None if self._ready_until is None else self._ready_until - now))
        self._calls.extend(SendSignal(to, body) for to, body in self._to_send.take_all())

    def _broke(self, unsent: tuple[SendSignal, ...], now: float) -> None:
        self._stream_is_open = False
        self._retry_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_LAST_S)
        for signal in unsent:
            self._keep(self._to_send, signal.peer_id, signal.body, now)

    def _keep(self, signals: _Signals, peer_id: str, body: bytes, now: float) -> None:
        """For signals whose sender is not asking: one that does not fit is counted."""
        try:
            signals.keep(peer_id, body, now)
        except SlowConsumer as refusal:
            self._calls.append(CountDropped(refusal.reason, 1))

    def _list_peers(self, round: int, peer_ids: tuple[str, ...], now: float) -> None:
        if round < self._next_round:
            return  # sent already, before the stream broke
        self._next_round = round + 1
        self._is_ready = False
        for peer_id in peer_ids:
            self._known_from.setdefault(peer_id, now + LIST_SETTLES_S)
        self._messages.append(PeersForRound(peer_ids, round))


class _Signals:
    """Signals by the peer they come from or go to, in order, within bounds. `oldest` is when the oldest was kept."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, str, bytes]] = deque()
        self._bytes = 0

    @property
    def oldest(self) -> float | None:
        return self._kept[0][0] if self._kept else None

    def keep(self, peer_id: str, body: bytes, now: float) -> None:
        if len(self._kept) >= MAX_SIGNALS_KEPT or self._bytes + len(body) > MAX_BYTES_KEPT:
            raise SlowConsumer
        self._kept.append((now, peer_id, body))
        self._bytes += len(body)

    def holds(self, peer_id: str) -> bool:
        return any(peer == peer_id for _, peer, _ in self._kept)

    def take(self, peer_ids: Iterable[str]) -> list[tuple[str, bytes]]:
        if not self._kept:
            return []
        wanted = frozenset(peer_ids)
        return [(peer, body) for _, peer, body in self._split(lambda entry: entry[1] in wanted)]

    def take_all(self) -> list[tuple[str, bytes]]:
        return [(peer, body) for _, peer, body in self._split(lambda _: True)]

    def drop_older_than(self, moment: float) -> int:
        return len(self._split(lambda entry: entry[0] <= moment)) if self._kept else 0

    def _split(self, goes: Callable[[tuple[float, str, bytes]], bool]) -> list[tuple[float, str, bytes]]:
        """Takes out, in order, the entries for which `goes` holds."""
        taken = [entry for entry in self._kept if goes(entry)]
        self._kept = deque(entry for entry in self._kept if not goes(entry))
        self._bytes -= sum(len(body) for _, _, body in taken)
        return taken
