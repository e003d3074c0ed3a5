"""Decentralized sessions, with a clock that is moved by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects.messages import (
    Hello,
    JoinRound,
    MarkReady,
    PeersForRound,
    PeerWelcome,
    PullLatest,
    ServerMessage,
    SignalFrom,
    SignalTo,
)
from gateway.sessions.decentralized import (
    LIST_SETTLES_S,
    MAX_SIGNAL_BYTES,
    MAX_SIGNALS_KEPT,
    AskForPeers,
    Call,
    CountDropped,
    DecentralizedSession,
    EndSession,
    PeersListed,
    SendSignal,
    SessionRefused,
    SessionStarted,
    SignalArrived,
    StartSession,
    State,
    StreamBroken,
)
from learning.refusals import MalformedMessage, PeerReplaced, SlowConsumer, TaskNotFound, TooLarge


class Driven:
    """A session with its clock; gives what it wants after each step."""

    def __init__(self, client_id: str = "", patience_s: float | None = 9.0) -> None:
        self.session = DecentralizedSession(client_id=client_id, patience_s=patience_s)
        self.now = 100.0

    def receive(self, message: Any) -> list[Call | ServerMessage]:
        self.session.receive(message, self.now)
        return self.wants()

    def deliver(self, event: Any) -> list[Call | ServerMessage]:
        self.session.deliver(event, self.now)
        return self.wants()

    def wait(self, seconds: float) -> list[Call | ServerMessage]:
        """Ticks whenever the session asks for it, as its driver does."""
        end = self.now + seconds
        found: list[Call | ServerMessage] = []
        while (moment := self.session.wake_at()) is not None and moment <= end:
            self.now = max(moment, self.now)
            self.session.tick(self.now)
            found += self.wants()
        self.now = end
        return found

    def lost(self, *, orderly: bool) -> list[Call | ServerMessage]:
        self.session.lost(self.now, orderly=orderly)
        return self.wants()

    def wants(self) -> list[Call | ServerMessage]:
        return [*self.session.take_messages(), *self.session.take_calls()]


def joined(client_id: str = "", patience_s: float | None = 9.0) -> Driven:
    driven = Driven(client_id, patience_s)
    assert driven.receive(Hello()) == [StartSession("", "", 0, client_id)]
    assert driven.deliver(SessionStarted("7", "secret")) == [PeerWelcome("7")]
    return driven


def broken(driven: Driven) -> Driven:
    assert driven.deliver(StreamBroken()) == []
    return driven


def test_peer_that_has_not_said_hello_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        Driven().receive(MarkReady())


def test_participants_messages_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        joined().receive(PullLatest())


def test_second_hello_is_answered_with_the_same_id() -> None:
    assert joined().receive(Hello()) == [PeerWelcome("7")]


def test_ready_peer_is_told_its_peers_once_per_round() -> None:
    driven = joined()
    assert driven.receive(MarkReady()) == [AskForPeers(9.0)]
    assert driven.deliver(PeersListed(0, ("8", "9"))) == [PeersForRound(("8", "9"), 0)]
    assert driven.deliver(PeersListed(0, ("8", "9"))) == []
    assert driven.deliver(PeersListed(1, ("8",))) == [PeersForRound(("8",), 1)]


# Signals.


def test_signal_goes_to_the_service() -> None:
    assert joined().receive(SignalTo("8", b"offer")) == [SendSignal("8", b"offer")]


def test_signal_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooLarge):
        joined().receive(SignalTo("8", b"x" * (MAX_SIGNAL_BYTES + 1)))


def test_signal_of_a_peer_just_listed_waits_until_the_list_has_settled() -> None:
    driven = joined()
    driven.deliver(PeersListed(0, ("8",)))
    assert driven.deliver(SignalArrived("8", b"offer")) == []
    assert driven.wait(LIST_SETTLES_S - 0.01) == []
    assert driven.deliver(SignalArrived("8", b"candidate")) == []
    assert driven.wait(0.02) == [SignalFrom("8", b"offer"), SignalFrom("8", b"candidate")]
    assert driven.deliver(SignalArrived("8", b"more")) == [SignalFrom("8", b"more")]


def test_signal_that_overtook_its_list_waits_for_it() -> None:
    driven = joined()
    assert driven.deliver(SignalArrived("8", b"early")) == []
    assert driven.wait(3.0) == []
    assert driven.deliver(PeersListed(0, ("8",))) == [PeersForRound(("8",), 0)]
    assert driven.wait(LIST_SETTLES_S) == [SignalFrom("8", b"early")]


def test_signal_of_a_peer_that_is_in_no_list_is_dropped_and_counted() -> None:
    driven = joined()
    driven.deliver(PeersListed(0, ("8",)))
    driven.deliver(SignalArrived("9", b"stranger"))
    assert driven.wait(9.9) == []
    assert driven.wait(0.2) == [CountDropped("PEER_NOT_CONNECTED", 1)]
    driven.deliver(PeersListed(1, ("9",)))
    assert driven.wait(1.0) == []


def test_peer_of_an_earlier_round_is_heard_at_once() -> None:
    driven = joined()
    driven.deliver(PeersListed(0, ("8",)))
    driven.wait(1.0)
    driven.deliver(PeersListed(1, ("8", "9")))
    assert driven.deliver(SignalArrived("8", b"again")) == [SignalFrom("8", b"again")]


def test_signals_beyond_the_bound_are_dropped_and_counted() -> None:
    driven = joined()
    for _ in range(MAX_SIGNALS_KEPT):
        assert driven.deliver(SignalArrived("9", b"x")) == []
    assert driven.deliver(SignalArrived("9", b"x")) == [CountDropped("SLOW_CONSUMER", 1)]


# Streams break.


def test_broken_stream_is_taken_up_again_as_the_same_peer() -> None:
    # What should happen: the peer asks again with the patience that is left, and gets the round it missed.
    # What should not happen: a second welcome, a list twice.
    driven = joined("mine")
    driven.deliver(PeersListed(0, ("8",)))
    driven.receive(MarkReady())
    broken(driven)
    assert driven.wait(0.1) == [StartSession("7", "secret", 1, "mine")]
    driven.now += 1.9
    assert driven.deliver(SessionStarted("7", "secret")) == [AskForPeers(pytest.approx(7.0))]
    assert driven.deliver(PeersListed(0, ("8",))) == []
    assert driven.deliver(PeersListed(1, ("8",))) == [PeersForRound(("8",), 1)]


def test_ready_mark_whose_patience_is_over_is_not_sent_again() -> None:
    driven = joined()
    driven.receive(MarkReady())
    broken(driven).wait(9.5)
    assert driven.deliver(SessionStarted("7", "secret")) == []


def test_peer_that_waits_for_ever_is_ready_again_however_long_the_stream_was_broken() -> None:
    driven = joined(patience_s=None)
    assert driven.receive(JoinRound()) == []
    assert driven.receive(MarkReady()) == [AskForPeers(None)]
    broken(driven).wait(1000)
    assert driven.deliver(SessionStarted("7", "secret")) == [AskForPeers(None)]
    driven.deliver(PeersListed(0, ("8",)))
    broken(driven)
    assert driven.deliver(SessionStarted("7", "secret")) == []


def test_peer_becomes_ready_while_the_stream_is_broken() -> None:
    driven = broken(joined())
    assert driven.receive(MarkReady()) == []
    assert driven.wait(1.0) == [StartSession("7", "secret", 0, "")]
    assert driven.deliver(SessionStarted("7", "secret")) == [AskForPeers(8.0)]


def test_signals_are_kept_while_the_stream_is_broken() -> None:
    driven = broken(joined())
    assert driven.receive(SignalTo("8", b"one")) == []
    assert driven.receive(SignalTo("9", b"two")) == []
    assert driven.deliver(SessionStarted("7", "secret")) == [SendSignal("8", b"one"), SendSignal("9", b"two")]


def test_signals_that_the_broken_stream_did_not_take_are_sent_again() -> None:
    driven = joined()
    driven.receive(SignalTo("8", b"one"))
    assert driven.deliver(StreamBroken((SendSignal("8", b"one"),))) == []
    driven.wait(1.0)
    assert driven.deliver(SessionStarted("7", "secret")) == [SendSignal("8", b"one")]


def test_signals_beyond_the_bound_are_refused_while_the_stream_is_broken() -> None:
    driven = broken(joined())
    for _ in range(MAX_SIGNALS_KEPT):
        driven.receive(SignalTo("8", b"x"))
    with pytest.raises(SlowConsumer):
        driven.receive(SignalTo("8", b"x"))


def test_stream_that_stays_broken_is_tried_less_and_less_often() -> None:
    driven = joined()
    pauses = []
    for _ in range(7):
        broken(driven)
        moment = driven.session.wake_at()
        assert moment is not None
        pauses.append(round(moment - driven.now, 3))
        assert driven.wait(pauses[-1]) == [StartSession("7", "secret", 0, "")]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_peer_whose_seat_is_gone_cannot_stay() -> None:
    with pytest.raises(PeerReplaced):
        broken(joined()).deliver(SessionStarted("8", "other"))


def test_refusal_of_the_service_ends_the_socket() -> None:
    with pytest.raises(TaskNotFound):
        joined().deliver(SessionRefused(TaskNotFound(task_id="gone")))


# The end.


@pytest.mark.parametrize(
    ("client_id", "orderly", "give_up_seat"),
    [("", True, True), ("", False, True), ("mine", True, True), ("mine", False, False)],
)
def test_seat_is_kept_only_for_a_client_that_can_come_back(client_id: str, orderly: bool, give_up_seat: bool) -> None:
    driven = joined(client_id)
    assert driven.lost(orderly=orderly) == [EndSession(give_up_seat)]
    assert driven.session.state is State.LEFT
    assert driven.deliver(StreamBroken()) == []
    assert driven.session.wake_at() is None


def test_lost_peer_that_never_said_hello_has_no_seat() -> None:
    assert Driven().lost(orderly=True) == []
