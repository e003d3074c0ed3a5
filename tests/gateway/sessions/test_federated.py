"""Federated sessions of clients that pull, with a clock that is moved by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.g21 import MANNERS as G21
from gateway.dialects.messages import (
    Contribute,
    EncodedWeights,
    Hello,
    Latest,
    MarkReady,
    MetadataMap,
    PullLatest,
    PullMetadata,
    PullStatistics,
    PutMetadata,
    ServerMessage,
    SignalTo,
    Statistics,
    Welcome,
)
from gateway.sessions.federated import MAX_UNANSWERED, FederatedSession, State
from gateway.sessions.federated_terms import (
    Call,
    ContributionSettled,
    Joined,
    JoinTask,
    LeaveTask,
    MetadataRead,
    NoteRefusal,
    ReadMetadata,
    ReadVersion,
    RoundSeen,
    RoundView,
    StoreMetadata,
    SubmitContribution,
    VersionRead,
    VersionUnavailable,
)
from learning.refusals import InvalidWeights, MalformedMessage, SlowConsumer

SHAPES = ((2,),)
BODY = EncodedWeights(b"body")


def round_at(number: int, *, participants: int = 1, ever: int = 0) -> RoundView:
    return RoundView(number=number, version=number, revision=number, participants=participants, contributions_ever=ever)


def contribution(round: int, weights: bytes = b"\0" * 8) -> Contribute:
    return Contribute(weights, SHAPES, round)


def contributed(round: int, weights: bytes = b"\0" * 8) -> SubmitContribution:
    return SubmitContribution(round, weights)


class Driven:
    """A session with its clock; gives what it wants after each step."""

    def __init__(self, *, poll_hold_s: float = 8.0) -> None:
        self.session = FederatedSession("task", "me", shapes=SHAPES, manners=G21, poll_hold_s=poll_hold_s)
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

    def lost(self) -> list[Call | ServerMessage]:
        self.session.lost(self.now, orderly=False)
        return self.wants()

    def wants(self) -> list[Call | ServerMessage]:
        return [*self.session.take_messages(), *self.session.take_calls()]


def joined(number: int = 0, **options: Any) -> Driven:
    driven = Driven(**options)
    assert driven.receive(Hello()) == [JoinTask()]
    assert driven.deliver(Joined(round_at(number))) == [Welcome("me")]
    return driven


def test_participant_is_welcomed_once_it_is_counted() -> None:
    # What should happen: a round that was seen before the join is no reason to answer; the join is.
    # What should not happen: statistics that count nobody, said to somebody who is there.
    driven = Driven()
    assert driven.receive(Hello()) == [JoinTask()]
    assert driven.deliver(RoundSeen(round_at(0, participants=0))) == []
    assert driven.receive(PullStatistics()) == []
    assert driven.deliver(Joined(round_at(0, participants=1))) == [
        Welcome("me"),
        Statistics(round=0, current=1, total=0, average=0.0),
    ]


def test_participant_whose_join_takes_too_long_is_welcomed_and_served_from_then_on() -> None:
    driven = Driven()
    driven.receive(Hello())
    driven.deliver(RoundSeen(round_at(0, participants=0)))
    assert driven.wait(8.9) == []
    assert driven.wait(0.2) == [Welcome("me")]
    assert driven.receive(PullStatistics()) == [Statistics(round=0, current=0, total=0, average=0.0)]


def adopt(driven: Driven, number: int) -> Latest:
    """Pulls, and a new version comes."""
    driven.receive(PullLatest())
    driven.deliver(RoundSeen(round_at(number)))
    (answer,) = driven.deliver(VersionRead(number, BODY))
    assert isinstance(answer, Latest)
    return answer


@pytest.mark.parametrize("message", [contribution(0), PullStatistics(), PullLatest(), PullMetadata(0, "key")])
def test_client_that_has_not_said_hello_is_refused(message: Any) -> None:
    driven = Driven()
    with pytest.raises(MalformedMessage):
        driven.receive(message)
    assert driven.wants() == []


@pytest.mark.parametrize("message", [MarkReady(), SignalTo("1", b"")])
def test_peers_messages_are_refused(message: Any) -> None:
    with pytest.raises(MalformedMessage):
        joined().receive(message)


def test_second_hello_is_answered_like_the_first_and_joins_once() -> None:
    assert joined().receive(Hello()) == [Welcome("me")]


def test_hello_is_answered_in_time_although_nobody_answers_the_join() -> None:
    driven = Driven()
    driven.receive(Hello())
    assert driven.wait(8.9) == []
    assert driven.wait(0.2) == [Welcome("me")]


# Contributions.


def test_contributions_go_one_at_a_time_and_in_order() -> None:
    driven = joined()
    assert driven.receive(contribution(0, b"a" * 8)) == [contributed(0, b"a" * 8)]
    assert driven.receive(contribution(0, b"b" * 8)) == []
    with pytest.raises(SlowConsumer):
        driven.receive(contribution(0, b"c" * 8))
    assert driven.deliver(ContributionSettled()) == [contributed(0, b"b" * 8)]
    assert driven.deliver(ContributionSettled()) == []


def test_contribution_of_other_shapes_is_refused() -> None:
    driven = joined()
    with pytest.raises(InvalidWeights, match=r"tensor 0 has the shape \[1, 2\], in the model it has \[2\]"):
        driven.receive(Contribute(b"\0" * 8, ((1, 2),), 0))
    with pytest.raises(InvalidWeights, match="2 tensors, the model has 1"):
        driven.receive(Contribute(b"\0" * 8, ((1,), (1,)), 0))
    # What should not happen: that it is submitted.
    assert [(type(want), want.refusal.reason) for want in driven.wants()] == [(NoteRefusal, "INVALID_WEIGHTS")] * 2


def test_contribution_waits_until_its_round_is_known() -> None:
    driven = Driven()
    driven.receive(Hello())
    assert driven.receive(contribution(0)) == []
    assert driven.deliver(Joined(round_at(7))) == [Welcome("me"), contributed(7)]


def test_label_0_means_the_round_that_the_client_found() -> None:
    driven = joined(5)
    driven.deliver(RoundSeen(round_at(6)))
    assert driven.receive(contribution(0)) == [contributed(5)]


def test_label_that_was_given_out_means_exactly_that_round() -> None:
    driven = joined(5)
    assert adopt(driven, 7).round == 7
    driven.deliver(RoundSeen(round_at(9)))
    assert driven.receive(contribution(7)) == [contributed(7)]


def test_label_of_a_client_that_comes_back_is_taken_at_its_word() -> None:
    assert joined(5).receive(contribution(4)) == [contributed(4)]


def test_client_that_is_ahead_of_the_server_hears_of_every_new_version() -> None:
    # What should happen: the client's round 40 is the server's round 2 from now on, and 41 its round 3.
    driven = joined(2)
    assert driven.receive(contribution(40)) == [contributed(2)]
    driven.deliver(ContributionSettled())
    answer = adopt(driven, 3)
    assert answer.round == 41
    assert driven.receive(contribution(41)) == [contributed(3)]


def test_store_that_went_back_still_gives_labels_that_grow() -> None:
    driven = joined(0)
    assert adopt(driven, 30).round == 30
    driven.deliver(RoundSeen(round_at(2)))
    assert driven.receive(contribution(30)) == [contributed(2)]
    driven.deliver(ContributionSettled())
    assert adopt(driven, 3).round == 31


# The newest version.


def test_pull_is_held_until_there_is_news() -> None:
    driven = joined(3)
    assert driven.receive(PullLatest()) == []
    assert driven.wait(7.9) == []
    assert driven.deliver(RoundSeen(round_at(4))) == [ReadVersion(4, until=109.0)]
    assert driven.deliver(VersionRead(4, BODY)) == [Latest(4, BODY)]


def test_pull_without_news_is_answered_with_the_clients_own_round() -> None:
    driven = joined(3)
    driven.receive(PullLatest())
    assert driven.wait(8.0) == [ReadVersion(3, until=109.0)]
    assert driven.deliver(VersionRead(3, BODY)) == [Latest(0, BODY)]


def test_pull_waits_for_the_clients_own_contribution() -> None:
    driven = joined(3)
    driven.receive(contribution(0))
    driven.deliver(RoundSeen(round_at(4)))
    assert driven.receive(PullLatest()) == []
    assert driven.deliver(ContributionSettled()) == [ReadVersion(4, until=109.0)]


def test_pull_waits_for_the_round_in_which_a_late_contribution_is_counted() -> None:
    # What should not happen: a client that contributes to the same round again, and is refused.
    driven = joined(3)
    driven.deliver(RoundSeen(round_at(4)))
    driven.receive(contribution(0))
    driven.deliver(ContributionSettled(counted_in=4))
    assert driven.receive(PullLatest()) == []
    assert driven.deliver(RoundSeen(round_at(5))) == [ReadVersion(5, until=109.0)]


def test_pull_does_not_wait_for_a_round_that_the_store_has_forgotten() -> None:
    driven = joined(9)
    driven.receive(contribution(0))
    driven.deliver(ContributionSettled(counted_in=9))
    driven.deliver(RoundSeen(round_at(2)))
    assert driven.receive(PullLatest()) == []
    assert driven.deliver(RoundSeen(round_at(3))) == [ReadVersion(3, until=109.0)]


def test_pull_of_a_client_that_is_behind_is_answered_at_once() -> None:
    driven = joined(3)
    driven.deliver(RoundSeen(round_at(5)))
    assert driven.receive(PullLatest()) == [ReadVersion(5, until=109.0)]


def test_pulls_that_wait_together_are_each_answered() -> None:
    driven = joined(3)
    driven.receive(PullLatest())
    driven.receive(PullLatest())
    assert driven.deliver(RoundSeen(round_at(4))) == [ReadVersion(4, until=109.0)]
    assert driven.deliver(VersionRead(4, BODY)) == [Latest(4, BODY), Latest(4, BODY)]


def test_pulls_beyond_the_bound_are_refused() -> None:
    driven = joined(3)
    for _ in range(MAX_UNANSWERED):
        driven.receive(PullLatest())
    with pytest.raises(SlowConsumer):
        driven.receive(PullLatest())


def test_pull_during_an_outage_is_answered_with_the_version_that_is_known() -> None:
    driven = joined(3)
    driven.receive(PullLatest())
    assert driven.wait(9.0) == [ReadVersion(3, until=109.0)]
    assert driven.deliver(VersionRead(2, BODY)) == [Latest(0, BODY)]


def test_pull_that_nothing_can_answer_is_forgotten_and_the_next_one_is_served() -> None:
    driven = joined(3)
    driven.receive(PullLatest())
    driven.wait(9.0)
    assert driven.deliver(VersionUnavailable()) == []
    driven.deliver(RoundSeen(round_at(4)))
    assert driven.receive(PullLatest()) == [ReadVersion(4, until=118.0)]


# Statistics and metadata.


def test_statistics_are_those_of_the_newest_round() -> None:
    driven = joined(3)
    driven.deliver(RoundSeen(round_at(4, participants=5, ever=10)))
    assert driven.receive(PullStatistics()) == [Statistics(round=4, current=5, total=10, average=2.5)]


def test_statistics_before_the_first_aggregation_are_zero() -> None:
    assert joined(0).receive(PullStatistics()) == [Statistics(round=0, current=1, total=0, average=0.0)]


def test_statistics_are_answered_in_time_although_no_round_is_known() -> None:
    driven = Driven()
    driven.receive(Hello())
    assert driven.receive(PullStatistics()) == []
    assert driven.wait(9.0) == [Welcome("me"), Statistics(round=0, current=0, total=0, average=0.0)]


def test_metadata_is_stored_under_the_round_that_the_label_means() -> None:
    driven = joined(5)
    assert driven.receive(PutMetadata(0, "key", "value")) == [StoreMetadata(5, "key", "value")]
    call = ReadMetadata(5, "key", label=0)
    assert driven.receive(PullMetadata(0, "key")) == [call]
    assert driven.deliver(MetadataRead(call, (("me", "value"),))) == [
        MetadataMap("task", "me", 0, "key", (("me", "value"),))
    ]


# The end.


def test_lost_client_leaves() -> None:
    driven = joined()
    driven.receive(PullLatest())
    assert driven.lost() == [LeaveTask()]
    assert driven.session.state is State.LEFT
    assert driven.session.wake_at() is None
    assert driven.deliver(RoundSeen(round_at(9))) == []


def test_lost_client_that_never_said_hello_has_nothing_to_leave() -> None:
    assert Driven().lost() == []


def test_lost_client_leaves_when_its_contributions_are_settled() -> None:
    driven = joined()
    driven.receive(contribution(0, b"a" * 8))
    driven.receive(contribution(0, b"b" * 8))
    assert driven.lost() == []
    assert driven.deliver(ContributionSettled()) == [contributed(0, b"b" * 8)]
    assert driven.deliver(ContributionSettled()) == [LeaveTask()]


def test_contribution_of_a_lost_client_without_a_known_round_is_given_up() -> None:
    driven = Driven()
    driven.receive(Hello())
    driven.receive(contribution(0))
    assert driven.lost() == [LeaveTask()]


# Whatever happens.

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 3)),
        st.tuples(st.just("restore"), st.integers(0, 3)),
        st.tuples(st.just("contribute"), st.just(0)),
        st.tuples(st.just("pull"), st.just(0)),
    ),
    max_size=40,
)


@given(server=st.integers(0, 5), label=st.integers(0, 50), steps=_STEPS)
def test_client_hears_of_every_new_version_and_is_never_put_back(
    server: int, label: int, steps: list[tuple[str, int]]
) -> None:
    """A client of 2.1.1 (adopts an answer only if its round is greater) that comes with any round to any server,
    whose data directory may be replaced by an older one at any time."""
    driven = joined(server)

    def contribute() -> int:
        (call,) = driven.receive(contribution(label))
        assert isinstance(call, SubmitContribution)
        assert 0 <= call.round <= server
        driven.deliver(ContributionSettled())
        return call.round

    trains_from = contribute()
    for step, number in steps:
        if step == "publish":
            server += number
            driven.deliver(RoundSeen(round_at(server)))
        elif step == "restore":
            server = min(server, number)
            trains_from = min(trains_from, server)
            driven.deliver(RoundSeen(round_at(server)))
        elif step == "contribute":
            trains_from = contribute()
        else:
            (call,) = driven.receive(PullLatest()) or driven.wait(8.0)
            assert isinstance(call, ReadVersion)
            (answer,) = driven.deliver(VersionRead(server, BODY))
            assert isinstance(answer, Latest)
            assert (answer.round > label) == (server > trains_from)
            assert answer.round >= label
            label, trains_from = answer.round, server
