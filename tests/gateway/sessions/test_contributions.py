"""Federated sessions of clients that wait for an answer to their contribution, with a clock that is moved by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.dialects.g22 import MANNERS as G30
from gateway.dialects.gdv import MANNERS as GDV
from gateway.dialects.manners import Manners
from gateway.dialects.messages import (
    Contribute,
    ContributionAnswer,
    EncodedWeights,
    EnoughParticipants,
    Hello,
    JoinRound,
    ServerMessage,
    UnusableContribution,
    VersionedWelcome,
    Welcome,
)
from gateway.sessions.federated import FederatedSession
from gateway.sessions.federated_terms import (
    Call,
    ContributionSettled,
    Joined,
    JoinTask,
    LeaveTask,
    NoteRefusal,
    ReadVersion,
    RoundSeen,
    RoundView,
    SubmitContribution,
    VersionRead,
    VersionUnavailable,
)
from learning.refusals import (
    DiscoError,
    DuplicateContribution,
    InternalError,
    InvalidWeights,
    MalformedMessage,
    RoundStale,
    SlowConsumer,
    StoreUnavailable,
    WeightsNotFinite,
    WeightsOutOfBound,
)

SHAPES = ((2,),)
BODY = EncodedWeights(b"body")
WEIGHTS = b"\0" * 8


def round_at(number: int, *, participants: int = 2, revision: int | None = None) -> RoundView:
    return RoundView(
        number=number,
        version=number,
        revision=100 + number if revision is None else revision,
        participants=participants,
        contributions_ever=0,
        min_participants=2,
    )


class Driven:
    """A session with its clock; gives what it wants after each step."""

    def __init__(self, manners: Manners) -> None:
        self.session = FederatedSession("task", "me", shapes=SHAPES, manners=manners, poll_hold_s=8.0)
        self.now = 100.0

    def receive(self, message: Any) -> list[Call | ServerMessage]:
        self.session.receive(message, self.now)
        return self.wants()

    def deliver(self, event: Any) -> list[Call | ServerMessage]:
        self.session.deliver(event, self.now)
        return self.wants()

    def contribute(self, label: int) -> list[Call | ServerMessage]:
        return self.receive(Contribute(WEIGHTS, SHAPES, label))

    def wait(self, seconds: float) -> list[Call | ServerMessage]:
        """Ticks whenever the session asks for it, as its driver does."""
        end = self.now + seconds
        found: list[Call | ServerMessage] = []
        ticks = 0
        while (moment := self.session.wake_at()) is not None and moment <= end:
            self.now = max(moment, self.now)
            self.session.tick(self.now)
            found += self.wants()
            ticks += 1
            assert ticks < 100, "the session asks to be woken again and again"
        self.now = end
        return found

    def wants(self) -> list[Call | ServerMessage]:
        return [*self.session.take_messages(), *self.session.take_calls()]


def gdv(number: int = 0, *, participants: int = 2) -> Driven:
    """A client of GDV that was welcomed to a round."""
    driven = Driven(GDV)
    assert driven.receive(Hello()) == [JoinTask()]
    (read,) = driven.deliver(Joined(round_at(number, participants=participants)))
    assert isinstance(read, ReadVersion)
    assert read.version == number
    (welcome,) = driven.deliver(VersionRead(number, BODY))
    assert welcome == VersionedWelcome("me", participants < 2, number, BODY, participants)
    return driven


def g30(number: int = 0) -> Driven:
    """A client of G22 or G30 that was welcomed to a round."""
    driven = Driven(G30)
    assert driven.receive(Hello()) == [JoinTask()]
    assert driven.deliver(Joined(round_at(number))) == [Welcome("me")]
    return driven


def close_round(driven: Driven, number: int) -> ServerMessage:
    """The next version comes; gives what the client is told."""
    (read,) = driven.deliver(RoundSeen(round_at(number)))
    assert isinstance(read, ReadVersion)
    assert read.version == number
    (answer,) = driven.deliver(VersionRead(number, BODY))
    assert not isinstance(answer, Call)
    return answer


# The welcome with a version.


def test_welcome_brings_the_version_that_is_newest_when_it_is_given() -> None:
    driven = Driven(GDV)
    driven.receive(Hello())
    driven.deliver(Joined(round_at(4)))
    driven.deliver(RoundSeen(round_at(5)))
    assert driven.deliver(VersionRead(5, BODY)) == [VersionedWelcome("me", False, 5, BODY, 2)]
    assert driven.contribute(5) == [SubmitContribution(5, WEIGHTS)]


def test_welcome_is_tried_again_until_a_version_can_be_had() -> None:
    driven = Driven(GDV)
    driven.receive(Hello())
    driven.deliver(Joined(round_at(4)))
    assert driven.deliver(VersionUnavailable()) == []
    assert driven.wait(0.9) == []
    (again,) = driven.wait(0.2)
    assert isinstance(again, ReadVersion)
    assert driven.deliver(VersionRead(4, BODY)) == [VersionedWelcome("me", False, 4, BODY, 2)]


def test_welcome_without_a_known_round_brings_what_can_be_had_in_time() -> None:
    driven = Driven(GDV)
    driven.receive(Hello())
    assert driven.wait(8.9) == []
    (read,) = driven.wait(0.2)
    assert isinstance(read, ReadVersion)
    assert driven.deliver(VersionUnavailable()) == []
    (again,) = driven.wait(1.5)
    assert isinstance(again, ReadVersion)
    assert driven.deliver(VersionRead(6, BODY)) == [VersionedWelcome("me", False, 6, BODY, 1)]
    driven.deliver(RoundSeen(round_at(6)))
    assert driven.contribute(6) == [SubmitContribution(6, WEIGHTS)]


def test_first_participant_is_told_to_wait_and_once_that_there_are_enough() -> None:
    driven = gdv(participants=1)
    assert driven.deliver(RoundSeen(round_at(0, participants=2, revision=101))) == [EnoughParticipants()]
    assert driven.deliver(RoundSeen(round_at(0, participants=3, revision=102))) == []


def test_participant_that_is_left_alone_is_not_told_to_wait_again() -> None:
    # What should not happen: a client throws when it is told to wait twice without having contributed in between.
    driven = gdv(participants=2)
    assert driven.deliver(RoundSeen(round_at(0, participants=1, revision=101))) == []
    assert driven.deliver(RoundSeen(round_at(0, participants=2, revision=102))) == []


# The answer to a contribution that is counted.


def test_answer_comes_when_the_round_has_closed_however_long_it_takes() -> None:
    driven = gdv(3)
    assert driven.contribute(3) == [SubmitContribution(3, WEIGHTS)]
    assert driven.deliver(ContributionSettled(counted_in=3)) == []
    assert driven.wait(100_000) == []
    assert close_round(driven, 4) == ContributionAnswer(4, BODY, 2)
    assert driven.wait(100) == []


def test_answer_waits_for_the_round_in_which_a_late_contribution_is_counted() -> None:
    driven = gdv(3)
    driven.deliver(RoundSeen(round_at(4)))
    assert driven.contribute(3) == [SubmitContribution(3, WEIGHTS)]
    assert driven.deliver(ContributionSettled(counted_in=4)) == []
    assert close_round(driven, 5) == ContributionAnswer(5, BODY, 2)
    assert driven.contribute(5) == [SubmitContribution(5, WEIGHTS)]


def test_round_that_closes_before_the_receipt_comes_is_answered_with_the_receipt() -> None:
    driven = gdv(3)
    driven.contribute(3)
    assert driven.deliver(RoundSeen(round_at(4))) == []
    (read,) = driven.deliver(ContributionSettled(counted_in=3))
    assert isinstance(read, ReadVersion)
    assert driven.deliver(VersionRead(4, BODY)) == [ContributionAnswer(4, BODY, 2)]


def test_answer_is_not_given_with_an_older_version_than_the_contribution_went_into() -> None:
    # The version is announced, but nobody can be asked for it: an older one is all that is known here.
    driven = gdv(3)
    driven.contribute(3)
    driven.deliver(ContributionSettled(counted_in=3))
    driven.deliver(RoundSeen(round_at(4)))
    assert driven.deliver(VersionRead(3, BODY)) == []
    (read,) = driven.wait(1.5)
    assert read == ReadVersion(4, until=driven.now - 0.5 + 9.0)
    assert driven.deliver(VersionRead(4, BODY)) == [ContributionAnswer(4, BODY, 2)]


# Contributions that are not counted.


@pytest.mark.parametrize("refusal", [WeightsOutOfBound(tensor=0, bound=1.0), InternalError(request_id="1")])
def test_refused_contribution_is_answered_at_once_so_that_its_round_need_not_wait(refusal: DiscoError) -> None:
    driven = gdv(3)
    driven.contribute(3)
    (read,) = driven.deliver(ContributionSettled(error=refusal))
    assert isinstance(read, ReadVersion)
    assert driven.deliver(VersionRead(3, BODY)) == [ContributionAnswer(3, BODY, 2)]
    assert driven.contribute(3) == [SubmitContribution(3, WEIGHTS)]


def test_contribution_that_the_gateway_cannot_use_is_answered_at_once() -> None:
    driven = gdv(3)
    with pytest.raises(WeightsNotFinite):
        driven.receive(UnusableContribution(3, WeightsNotFinite(tensor=0)))
    note, read = driven.wants()
    assert isinstance(note, NoteRefusal)
    assert (note.round, note.refusal.reason) == (3, "WEIGHTS_NOT_FINITE")
    assert isinstance(read, ReadVersion)
    assert driven.deliver(VersionRead(3, BODY)) == [ContributionAnswer(3, BODY, 2)]


def test_contribution_of_other_shapes_is_answered_at_once() -> None:
    driven = gdv(3)
    with pytest.raises(InvalidWeights):
        driven.receive(Contribute(WEIGHTS, ((1, 2),), 3))
    note, _ = driven.wants()
    assert isinstance(note, NoteRefusal)
    assert (note.round, note.refusal.reason) == (3, "INVALID_WEIGHTS")
    assert driven.deliver(VersionRead(3, BODY)) == [ContributionAnswer(3, BODY, 2)]


def test_stale_contribution_is_answered_as_soon_as_the_newest_round_is_known() -> None:
    driven = gdv(3)
    driven.contribute(3)
    assert driven.deliver(ContributionSettled(error=RoundStale(round=3, current_round=9))) == []
    assert close_round(driven, 9) == ContributionAnswer(9, BODY, 2)
    assert driven.contribute(9) == [SubmitContribution(9, WEIGHTS)]


def test_contribution_to_a_round_that_takes_no_more_of_its_sender_is_answered_at_the_next() -> None:
    driven = gdv(3)
    driven.contribute(3)
    assert driven.deliver(ContributionSettled(error=DuplicateContribution(participant_id="me", round=3))) == []
    assert driven.wait(1000) == []
    assert close_round(driven, 4) == ContributionAnswer(4, BODY, 2)


def test_contribution_that_nobody_takes_is_submitted_again_while_its_sender_waits() -> None:
    driven = gdv(3)
    driven.contribute(3)
    assert driven.deliver(ContributionSettled(error=StoreUnavailable())) == [SubmitContribution(3, WEIGHTS)]
    driven.session.lost(driven.now, orderly=False)
    assert driven.deliver(ContributionSettled(error=StoreUnavailable())) == [LeaveTask()]


def test_round_that_the_store_has_forgotten_is_waited_for_no_longer() -> None:
    # What should happen: the client trains again from the newest version, and the round can close one day.
    driven = gdv(3)
    driven.contribute(3)
    driven.deliver(ContributionSettled(counted_in=3))
    (read,) = driven.deliver(RoundSeen(round_at(3, revision=1)))
    assert isinstance(read, ReadVersion)
    assert driven.deliver(VersionRead(3, BODY)) == [ContributionAnswer(3, BODY, 2)]


def test_store_that_went_back_still_gives_numbers_that_do_not_fall() -> None:
    driven = gdv(30)
    driven.contribute(30)
    driven.deliver(ContributionSettled(counted_in=30))
    driven.deliver(RoundSeen(round_at(2, revision=1)))
    assert driven.deliver(VersionRead(2, BODY)) == [ContributionAnswer(30, BODY, 2)]
    assert driven.contribute(30) == [SubmitContribution(2, WEIGHTS)]
    driven.deliver(ContributionSettled(counted_in=2))
    driven.deliver(RoundSeen(round_at(3, revision=2)))
    assert driven.deliver(VersionRead(3, BODY)) == [ContributionAnswer(31, BODY, 2)]


# The echo, and the limit.


def test_echo_bears_the_clients_own_number() -> None:
    driven = g30(7)
    assert driven.contribute(0) == [SubmitContribution(7, WEIGHTS)]
    driven.deliver(ContributionSettled(counted_in=7))
    assert close_round(driven, 8) == ContributionAnswer(0, BODY, 2)
    assert driven.contribute(1) == [SubmitContribution(8, WEIGHTS)]


def test_client_with_a_limit_is_answered_before_it_with_what_there_is() -> None:
    # What should happen: the client adopts the version it has already, and its next contribution says so, whatever
    # its number. What should not happen: an answer after 15 seconds, which wedges the client for ever.
    driven = g30(7)
    driven.contribute(0)
    driven.deliver(ContributionSettled(counted_in=7))
    assert driven.wait(11.4) == []
    assert driven.wait(0.2) == [ReadVersion(7, until=113.0)]
    assert driven.deliver(VersionRead(7, BODY)) == [ContributionAnswer(0, BODY, 2)]
    assert driven.contribute(1) == [SubmitContribution(7, WEIGHTS)]


def test_client_with_a_limit_is_answered_although_nobody_takes_its_contribution() -> None:
    driven = g30(7)
    driven.contribute(0)
    (read,) = driven.wait(12)
    assert isinstance(read, ReadVersion)
    assert driven.deliver(VersionRead(7, BODY)) == [ContributionAnswer(0, BODY, 2)]
    assert driven.deliver(ContributionSettled(error=StoreUnavailable())) == []


def test_client_that_was_answered_early_and_contributes_again_waits_for_the_round() -> None:
    driven = g30(7)
    driven.contribute(0)
    driven.deliver(ContributionSettled(counted_in=7))
    driven.wait(12)
    driven.deliver(VersionRead(7, BODY))
    driven.contribute(1)
    assert driven.deliver(ContributionSettled(error=DuplicateContribution(participant_id="me", round=7))) == []
    assert close_round(driven, 8) == ContributionAnswer(1, BODY, 2)


def test_client_that_gave_up_waiting_is_owed_one_answer_only() -> None:
    driven = g30(7)
    driven.contribute(0)
    driven.deliver(ContributionSettled(counted_in=7))
    assert driven.contribute(1) == [SubmitContribution(7, WEIGHTS)]
    driven.deliver(ContributionSettled(error=DuplicateContribution(participant_id="me", round=7)))
    assert close_round(driven, 8) == ContributionAnswer(1, BODY, 2)
    assert driven.wait(100) == []


def test_contributions_beyond_what_can_be_in_flight_are_refused_and_answered() -> None:
    driven = g30(7)
    driven.contribute(0)
    driven.contribute(1)
    with pytest.raises(SlowConsumer):
        driven.contribute(2)
    driven.wants()
    assert driven.deliver(VersionRead(7, BODY)) == [ContributionAnswer(2, BODY, 2)]


def test_contribution_before_the_round_is_known_is_trained_from_what_the_client_found() -> None:
    driven = Driven(G30)
    driven.receive(Hello())
    assert driven.contribute(0) == []
    assert driven.deliver(Joined(round_at(7))) == [Welcome("me"), SubmitContribution(7, WEIGHTS)]


@pytest.mark.parametrize("manners", [GDV, G30])
def test_client_that_is_gone_is_owed_nothing(manners: Manners) -> None:
    driven = gdv(3) if manners is GDV else g30(3)
    driven.contribute(3)
    driven.session.lost(driven.now, orderly=False)
    assert driven.wants() == []
    assert driven.deliver(ContributionSettled(counted_in=3)) == [LeaveTask()]
    assert driven.session.wake_at() is None
    assert driven.deliver(RoundSeen(round_at(4))) == []


def test_messages_of_peers_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        gdv().receive(JoinRound())


# Whatever happens.

_SETTLEMENTS = st.sampled_from(
    [
        lambda current: ContributionSettled(counted_in=current),
        lambda current: ContributionSettled(error=RoundStale(round=0, current_round=current)),
        lambda current: ContributionSettled(error=DuplicateContribution(participant_id="me", round=current)),
        lambda current: ContributionSettled(error=WeightsNotFinite(tensor=0)),
        lambda current: ContributionSettled(error=StoreUnavailable()),
    ]
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("contribute"), st.integers(0, 50)),
        st.tuples(st.just("unusable"), st.integers(0, 50)),
        st.tuples(st.just("publish"), st.integers(1, 2)),
        st.tuples(st.just("restore"), st.integers(0, 3)),
        st.tuples(st.just("settle"), _SETTLEMENTS),
        st.tuples(st.just("read"), st.booleans()),
        st.tuples(st.just("wait"), st.floats(0.1, 20)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(manners=st.sampled_from([GDV, G30]), steps=_STEPS)
@example(
    manners=GDV,
    steps=[
        ("contribute", 0),
        ("restore", 0),
        ("publish", 1),
        ("settle", lambda current: ContributionSettled(error=StoreUnavailable())),
    ],
)
def test_client_is_answered_once_for_each_contribution_and_trains_from_what_it_was_told(
    manners: Manners, steps: list[tuple[str, Any]]
) -> None:
    """A client that contributes only when it has been answered, on a server to which anything may happen."""
    driven = gdv(3) if manners is GDV else g30(3)
    number, revision, adopted = 3, 1000, 3
    label: int | None = None
    submitted = reading = False

    def take(wants: list[Call | ServerMessage], read_version: int | None = None) -> None:
        nonlocal label, submitted, reading, adopted
        for want in wants:
            match want:
                case SubmitContribution(base, _):
                    assert not submitted
                    submitted = True
                    assert base == min(adopted, number) or label is None  # one that was answered meanwhile
                case ReadVersion():
                    assert not reading
                    reading = True
                case ContributionAnswer(told, _, _):
                    assert label is not None, "an answer that nobody waits for"
                    if manners is G30:
                        assert told == label
                    label, adopted = None, read_version if read_version is not None else adopted
                case NoteRefusal():
                    pass
                case _:
                    raise AssertionError(want)

    for step, detail in steps:
        if step in ("contribute", "unusable") and label is None:
            label = detail
            if step == "contribute":
                try:
                    take(driven.contribute(detail))
                except SlowConsumer:
                    take(driven.wants())
            else:
                with pytest.raises(WeightsNotFinite):
                    driven.receive(UnusableContribution(detail, WeightsNotFinite(tensor=0)))
                take(driven.wants())
        elif step == "publish":
            number, revision = number + detail, revision + 1
            take(driven.deliver(RoundSeen(replace(round_at(number), revision=revision))))
        elif step == "restore":
            number, revision = min(number, detail), revision - 1
            adopted = min(adopted, number)
            take(driven.deliver(RoundSeen(replace(round_at(number), revision=revision))))
        elif step == "settle" and submitted:
            submitted = False
            take(driven.deliver(detail(number)))
        elif step == "read" and reading:
            reading = False
            take(driven.deliver(VersionRead(number, BODY) if detail else VersionUnavailable()), number)
        elif step == "wait":
            take(driven.wait(detail))

    # In the end everybody answers: then nobody is left waiting.
    for _ in range(4):
        if submitted:
            submitted = False
            take(driven.deliver(ContributionSettled(counted_in=number)))
        number, revision = number + 1, revision + 1
        take(driven.deliver(RoundSeen(replace(round_at(number), revision=revision))))
        take(driven.wait(1.5))
        if reading:
            reading = False
            take(driven.deliver(VersionRead(number, BODY)), number)
    assert label is None
