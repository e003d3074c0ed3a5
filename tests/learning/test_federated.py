"""Every state meets every event; then what a round waits for, and what holds whatever happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning import federated
from learning.federated import (
    Admission,
    ClosingStarted,
    Contribution,
    Event,
    FederatedRound,
    GroupConflict,
    GroupContributed,
    Joined,
    LeasesChecked,
    Left,
    NotDue,
    PolicyChanged,
    Restoring,
    RestoringStarted,
    RoundMoved,
    RoundStatus,
    State,
    VersionPublished,
    contributions_needed,
    is_due,
    look_again_at,
    round_deadline,
    step,
)
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import DuplicateContribution, RoundAhead, RoundStale, WeightCapReached
from learning.waiting import Waiting, waiting_for
from learning.weighing import as_collecting, weight_of

DOCS = Path(__file__).parents[2] / "docs" / "rounds.md"
ALICE, BOB, CAROL, DAVE = (ParticipantId(name) for name in ("alice", "bob", "carol", "dave"))
REPLICA, OTHER_REPLICA = ReplicaId("replica-1"), ReplicaId("replica-2")
POLICY = Policy(min_participants=2, quorum_share=0.5, deadline_s=10.0, staleness_weights=(4, 2, 1), max_total_weight=20)


def a_contribution(who: ParticipantId, digest: str = "a1", weight: int = 4) -> Contribution:
    return Contribution(who, digest, base_round=7, weight=weight)


def an_admission(who: ParticipantId, position: int, digest: str = "a1") -> Admission:
    return Admission(who, digest, base_round=7, weight=4, round=7, position=position)


COLLECTING = FederatedRound(
    task_id=TaskId("titanic"),
    epoch="first",
    policy=POLICY,
    weight_cap=20,
    number=7,
    revision=5,
    leases={ALICE: 100.0, BOB: 50.0, CAROL: 70.0},
    connections={ALICE: "a2", BOB: "b1"},
    admissions={ALICE: an_admission(ALICE, 0), DAVE: an_admission(DAVE, 1)},
    total_weight=8,
    first_contribution_at=10.0,
    last_contributions=3,
    contributions_ever=30,
)
"""Two of four have contributed, one of them has left; the quorum is reached."""
AGGREGATING = replace(COLLECTING, state=State.AGGREGATING, closer=REPLICA, closer_until=40.0)
ROUNDS = {State.COLLECTING: COLLECTING, State.AGGREGATING: AGGREGATING}


def same_in_both(event: Event, now: float, **changes: object) -> list[tuple[State, Event, float, object]]:
    return [(state, event, now, replace(before, revision=6, **changes)) for state, before in ROUNDS.items()]  # type: ignore[arg-type]


def unchanged_in_both(event: Event, now: float) -> list[tuple[State, Event, float, object]]:
    return [(state, event, now, before) for state, before in ROUNDS.items()]


NEXT = FederatedRound(
    task_id=TaskId("titanic"),
    epoch="first",
    policy=POLICY,
    weight_cap=20,
    number=8,
    revision=6,
    leases=COLLECTING.leases,
    connections=COLLECTING.connections,
    last_contributions=2,
    contributions_ever=32,
)
RESTORING = Restoring(version=3, request_id="r1", asked_at=11.0)
NEW_POLICY = Policy(min_participants=1, quorum_share=None, quorum_count=1, max_total_weight=50)

GRID: list[tuple[State, Event, float, object]] = [
    *same_in_both(Joined((DAVE,), 60.0), 20.0, leases={**COLLECTING.leases, DAVE: 60.0}),
    *same_in_both(Joined((BOB, CAROL), 90.0), 20.0, leases={ALICE: 100.0, BOB: 90.0, CAROL: 90.0}),
    *unchanged_in_both(Joined((ALICE,), 100.0), 20.0),
    *unchanged_in_both(Joined((), 100.0), 20.0),
    *unchanged_in_both(Joined((ALICE,), 100.0, "a2"), 20.0),
    *same_in_both(
        Joined((ALICE, CAROL), 100.0, "a3"),
        20.0,
        leases={ALICE: 100.0, BOB: 50.0, CAROL: 100.0},
        connections={ALICE: "a3", BOB: "b1", CAROL: "a3"},
    ),
    *same_in_both(Left(ALICE), 20.0, leases={BOB: 50.0, CAROL: 70.0}, connections={BOB: "b1"}),
    *same_in_both(Left(ALICE, "a2"), 20.0, leases={BOB: 50.0, CAROL: 70.0}, connections={BOB: "b1"}),
    *unchanged_in_both(Left(ALICE, "a1"), 20.0),
    *same_in_both(Left(CAROL, "c1"), 20.0, leases={ALICE: 100.0, BOB: 50.0}),
    *unchanged_in_both(Left(DAVE), 20.0),
    *unchanged_in_both(LeasesChecked(), 49.9),
    *same_in_both(LeasesChecked(), 50.0, leases={ALICE: 100.0, CAROL: 70.0}, connections={ALICE: "a2"}),
    *same_in_both(LeasesChecked(), 100.0, leases={}, connections={}),
    *same_in_both(PolicyChanged(NEW_POLICY), 20.0, policy=NEW_POLICY),
    *unchanged_in_both(PolicyChanged(replace(POLICY)), 20.0),
    (
        State.COLLECTING,
        GroupContributed(7, (a_contribution(BOB), a_contribution(CAROL, "c1", 8))),
        20.0,
        replace(
            COLLECTING,
            revision=6,
            admissions={
                **COLLECTING.admissions,
                BOB: an_admission(BOB, 2),
                CAROL: Admission(CAROL, "c1", base_round=7, weight=8, round=7, position=3),
            },
            total_weight=20,
        ),
    ),
    (State.COLLECTING, GroupContributed(6, (a_contribution(BOB),)), 20.0, RoundMoved),
    (State.COLLECTING, GroupContributed(8, (a_contribution(BOB),)), 20.0, RoundMoved),
    (State.COLLECTING, GroupContributed(7, (a_contribution(BOB), a_contribution(ALICE))), 20.0, GroupConflict),
    (State.AGGREGATING, GroupContributed(7, (a_contribution(BOB),)), 20.0, RoundMoved),
    (
        State.COLLECTING,
        ClosingStarted(7, REPLICA, 40.0),
        11.0,
        replace(COLLECTING, revision=6, state=State.AGGREGATING, closer=REPLICA, closer_until=40.0),
    ),
    (State.COLLECTING, ClosingStarted(6, REPLICA, 40.0), 11.0, NotDue),
    (State.COLLECTING, ClosingStarted(8, REPLICA, 40.0), 11.0, NotDue),
    (State.AGGREGATING, ClosingStarted(7, OTHER_REPLICA, 80.0), 39.9, NotDue),
    (State.AGGREGATING, ClosingStarted(6, OTHER_REPLICA, 80.0), 40.0, NotDue),
    (
        State.AGGREGATING,
        ClosingStarted(7, OTHER_REPLICA, 80.0),
        40.0,
        replace(AGGREGATING, revision=6, closer=OTHER_REPLICA, closer_until=80.0),
    ),
    (
        State.COLLECTING,
        RestoringStarted(7, REPLICA, 40.0, RESTORING),
        11.0,
        replace(
            COLLECTING, revision=6, state=State.AGGREGATING, closer=REPLICA, closer_until=40.0, restoring=RESTORING
        ),
    ),
    (State.COLLECTING, RestoringStarted(6, REPLICA, 40.0, RESTORING), 11.0, NotDue),
    (State.COLLECTING, RestoringStarted(8, REPLICA, 40.0, RESTORING), 11.0, NotDue),
    (State.AGGREGATING, RestoringStarted(7, REPLICA, 80.0, RESTORING), 20.0, NotDue),
    (State.AGGREGATING, RestoringStarted(7, OTHER_REPLICA, 80.0, RESTORING), 40.0, NotDue),
    (State.AGGREGATING, VersionPublished(7), 20.0, NEXT),
    (State.AGGREGATING, VersionPublished(6), 20.0, RoundMoved),
    (State.AGGREGATING, VersionPublished(8), 20.0, RoundMoved),
    (State.COLLECTING, VersionPublished(7), 20.0, RoundMoved),
    (State.COLLECTING, VersionPublished(6), 20.0, RoundMoved),
]


@pytest.mark.parametrize(("state", "event", "now", "expected"), GRID)
def test_the_grid(state: State, event: Event, now: float, expected: object) -> None:
    if isinstance(expected, FederatedRound):
        assert step(ROUNDS[state], event, now) == expected
    else:
        with pytest.raises(expected):  # type: ignore[call-overload]
            step(ROUNDS[state], event, now)


EVENTS = [
    Joined,
    Left,
    LeasesChecked,
    PolicyChanged,
    GroupContributed,
    ClosingStarted,
    RestoringStarted,
    VersionPublished,
]


def test_every_event_is_tried_in_every_state() -> None:
    assert {(state, type(event)) for state, event, _, _ in GRID} == {
        (state, event) for state in State for event in EVENTS
    }


def test_what_is_no_event_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        step(COLLECTING, "Joined", 20.0)  # type: ignore[arg-type]


# The table at the top of the file, and its picture in docs/


def rows_of_the_docstring() -> list[tuple[str, str, str]]:
    rows = re.findall(r"^    (any|[A-Z]{2,}) +([A-Z]\w+) +(\S.*)$", federated.__doc__ or "", re.MULTILINE)
    assert all(len(row) == 3 for row in rows)
    return rows


def test_the_table_has_a_row_for_every_state_and_event() -> None:
    told = [
        (state, event)
        for name, event, _ in rows_of_the_docstring()
        for state in ([state.name for state in State] if name == "any" else [name])
    ]
    assert sorted(told) == sorted((state.name, event.__name__) for state in State for event in EVENTS)


def test_the_table_tells_the_outcomes_of_the_grid() -> None:
    table = {(state, event): what for state, event, what in rows_of_the_docstring()}
    for state, event, _, outcome in GRID:
        what = table.get((state.name, type(event).__name__)) or table["any", type(event).__name__]
        if isinstance(outcome, FederatedRound) and outcome.state is not state:
            assert f"→ {outcome.state.name}" in what
        # A number that is over needs no word in the table.
        if outcome in (RoundMoved, NotDue, GroupConflict) and getattr(event, "number", 7) == 7:
            assert outcome.__name__ in what  # type: ignore[attr-defined]


def test_the_docs_show_the_same_table() -> None:
    rows = re.findall(r"^\| (\S+) \| `(\w+)` \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == rows_of_the_docstring()


def test_the_docs_draw_every_move() -> None:
    drawn = set(re.findall(r"^ +(\w+) --> (\w+): (\w+)", DOCS.read_text(), re.MULTILINE))
    moves = {
        (state.name, outcome.state.name, type(event).__name__)
        for state, event, _, outcome in GRID
        if isinstance(outcome, FederatedRound)
        and type(event) in (GroupContributed, ClosingStarted, RestoringStarted, VersionPublished)
    }
    assert drawn == moves


# Rolling back


def test_whoever_takes_over_restores_what_was_asked_for_and_the_next_round_is_an_ordinary_one() -> None:
    nobody = replace(COLLECTING, admissions={}, total_weight=0, first_contribution_at=None)
    restoring = step(nobody, RestoringStarted(7, REPLICA, 40.0, RESTORING), 11.0)
    taken_over = step(restoring, ClosingStarted(7, OTHER_REPLICA, 80.0), 40.0)
    assert (taken_over.closer, taken_over.restoring) == (OTHER_REPLICA, RESTORING)
    after = step(taken_over, VersionPublished(7), 41.0)
    assert (after.number, after.state, after.restoring, after.oldest_base) == (8, State.COLLECTING, None, 8)
    later = step(
        step(replace(after, admissions=COLLECTING.admissions), ClosingStarted(8, REPLICA, 99.0), 60.0),
        VersionPublished(8),
        61.0,
    )
    assert (later.number, later.oldest_base) == (9, 8)


def test_what_started_before_a_rollback_is_stale_however_late_the_policy_lets_others_be() -> None:
    status = a_status(oldest_base=6)
    assert weight_of(status, base_round=6, sample_count=1) == 2
    with pytest.raises(RoundStale) as stale:
        weight_of(status, base_round=5, sample_count=1)
    assert stale.value.variables == {"round": "5", "current_round": "7"}


def test_contributions_of_the_moment_of_a_rollback_are_judged_as_in_the_next_round() -> None:
    collecting = a_status()
    assert as_collecting(collecting) is collecting
    closing = a_status(state=State.AGGREGATING, closer=REPLICA, closer_until=40.0, oldest_base=2)
    assert as_collecting(closing) == a_status(number=8, closer=REPLICA, closer_until=40.0, oldest_base=2)
    assert as_collecting(replace(closing, restoring=RESTORING)) == replace(as_collecting(closing), oldest_base=8)


# Admission


def test_the_first_group_starts_the_clock_and_later_ones_do_not() -> None:
    opened = FederatedRound(task_id=TaskId("titanic"), epoch="e", policy=POLICY, weight_cap=20)
    first = step(opened, GroupContributed(0, (a_contribution(ALICE),)), 3.5)
    second = step(first, GroupContributed(0, (a_contribution(BOB),)), 9.0)
    assert (first.first_contribution_at, second.first_contribution_at) == (3.5, 3.5)


def test_each_member_that_cannot_be_admitted_is_told_why() -> None:
    group = (
        a_contribution(ALICE),
        a_contribution(DAVE, "d2"),
        a_contribution(BOB, weight=13),
        a_contribution(CAROL, weight=12),
    )
    with pytest.raises(GroupConflict) as conflict:
        step(COLLECTING, GroupContributed(7, group), 20.0)
    refused = conflict.value.refused
    assert set(refused) == {0, 1, 2}
    assert refused[0] == an_admission(ALICE, 0)
    assert isinstance(refused[1], DuplicateContribution)
    assert refused[1].variables == {"participant_id": "dave", "round": "7"}
    assert isinstance(refused[2], WeightCapReached)
    assert refused[2].variables == {"cap": "20"}
    assert str(conflict.value) == "3 members of the group cannot be admitted"


def test_a_participant_twice_in_a_group_is_refused_the_second_time() -> None:
    group = (a_contribution(BOB), a_contribution(BOB), a_contribution(BOB, "b2"))
    with pytest.raises(GroupConflict) as conflict:
        step(COLLECTING, GroupContributed(7, group), 20.0)
    assert conflict.value.refused[1] == an_admission(BOB, 2)
    assert isinstance(conflict.value.refused[2], DuplicateContribution)


def test_a_group_without_members_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        step(COLLECTING, GroupContributed(7, ()), 20.0)


def test_a_new_policys_cap_holds_from_the_next_round_on() -> None:
    changed = step(AGGREGATING, PolicyChanged(NEW_POLICY), 20.0)
    assert changed.weight_cap == 20
    assert step(changed, VersionPublished(7), 20.0).weight_cap == 50


# Closing


def test_a_round_that_is_not_due_is_not_closed() -> None:
    waits = replace(COLLECTING, policy=replace(POLICY, quorum_share=1.0))
    with pytest.raises(NotDue):
        step(waits, ClosingStarted(7, REPLICA, 40.0), 19.9)
    assert step(waits, ClosingStarted(7, REPLICA, 40.0), 20.0).state is State.AGGREGATING


def test_the_status_counts_who_contributed_and_left() -> None:
    assert COLLECTING.status == RoundStatus(
        task_id=TaskId("titanic"),
        epoch="first",
        number=7,
        state=State.COLLECTING,
        policy=POLICY,
        revision=5,
        participants=3,
        contributions=2,
        absent_contributors=1,
        total_weight=8,
        weight_cap=20,
        first_contribution_at=10.0,
        closer=None,
        closer_until=None,
        last_contributions=3,
        contributions_ever=30,
    )


def a_status(**changes: object) -> RoundStatus:
    """Empty, with nobody present, unless told otherwise."""
    empty = FederatedRound(task_id=TaskId("titanic"), epoch="e", policy=POLICY, weight_cap=20, number=7)
    return replace(empty.status, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "present", "absent", "needed"),
    [
        (1.0, 0, 0, 2),
        (1.0, 3, 0, 3),
        (1.0, 3, 2, 5),
        (0.5, 10, 0, 5),
        (0.5, 9, 0, 5),
        (0.5, 3, 0, 2),
        (0.1, 30, 0, 3),
        (0.07, 100, 0, 7),
        (0.55, 100, 0, 55),
        (1 / 3, 3, 0, 2),
        (2 / 3, 9, 0, 6),
        (1e-9, 10000, 0, 2),
    ],
)
def test_a_share_of_those_present_and_of_those_who_left_after_contributing(
    share: float, present: int, absent: int, needed: int
) -> None:
    status = a_status(
        policy=replace(POLICY, quorum_share=share),
        participants=present,
        absent_contributors=absent,
        contributions=absent,
    )
    assert contributions_needed(status) == needed


@pytest.mark.parametrize(("count", "needed"), [(1, 2), (2, 2), (5, 5)])
def test_a_count_does_not_depend_on_who_is_present(count: int, needed: int) -> None:
    policy = replace(POLICY, quorum_share=None, quorum_count=count)
    assert contributions_needed(a_status(policy=policy, participants=100)) == needed


DUE: list[tuple[str, RoundStatus, float, bool, float | None]] = [
    ("nobody has contributed", a_status(participants=3), 1e9, False, None),
    ("fewer than the least, however late", a_status(contributions=1, first_contribution_at=10.0), 1e9, False, None),
    (
        "the quorum is reached",
        a_status(participants=4, contributions=2, first_contribution_at=10.0),
        10.0,
        True,
        20.0,
    ),
    (
        "the quorum is not reached, the deadline neither",
        a_status(participants=6, contributions=2, first_contribution_at=10.0),
        19.99,
        False,
        20.0,
    ),
    (
        "the deadline is reached",
        a_status(participants=6, contributions=2, first_contribution_at=10.0),
        20.0,
        True,
        20.0,
    ),
    (
        "somebody closes it",
        a_status(state=State.AGGREGATING, contributions=2, closer=REPLICA, closer_until=40.0),
        39.9,
        False,
        40.0,
    ),
    (
        "who closed it is gone",
        a_status(state=State.AGGREGATING, contributions=2, closer=REPLICA, closer_until=40.0),
        40.0,
        True,
        40.0,
    ),
]


@pytest.mark.parametrize(("why", "status", "now", "due", "again"), DUE, ids=[row[0] for row in DUE])
def test_a_round_is_due_when_its_quorum_or_its_deadline_says_so(
    why: str, status: RoundStatus, now: float, due: bool, again: float | None
) -> None:
    assert is_due(status, now) is due
    assert look_again_at(status) == again


def test_the_deadline_counts_from_the_first_contribution() -> None:
    assert round_deadline(a_status()) is None
    assert round_deadline(a_status(first_contribution_at=10.0)) == 20.0


def test_the_quorum_is_tested_again_when_somebody_leaves() -> None:
    waits = replace(COLLECTING, leases={**COLLECTING.leases, ParticipantId("erin"): 90.0})
    assert not is_due(waits.status, 11.0)
    assert is_due(step(waits, Left(BOB), 11.0).status, 11.0)
    # Who has contributed is waited for by nobody, but counts for the others all the same.
    assert not is_due(step(waits, Left(ALICE), 11.0).status, 11.0)


# What people are told

TOLD = [
    (
        a_status(participants=3),
        Waiting.FIRST_CONTRIBUTION,
        "Round 7 waits for its first contribution; 3 present, 2 needed.",
    ),
    (
        a_status(participants=1, contributions=1, first_contribution_at=1.0),
        Waiting.MIN_PARTICIPANTS,
        "Round 7 has 1 of at least 2 contributions; it keeps them and waits for more participants (1 present).",
    ),
    (
        a_status(participants=6, contributions=2, first_contribution_at=1.0),
        Waiting.QUORUM,
        "Round 7 has 2 of 3 contributions; it closes 10 seconds after the first one with what is there.",
    ),
    (
        a_status(state=State.AGGREGATING, closer=REPLICA, closer_until=40.0, contributions=2),
        Waiting.AGGREGATION,
        "Round 7 is complete; version 8 is being computed.",
    ),
    (
        a_status(state=State.AGGREGATING, closer=REPLICA, closer_until=40.0, restoring=RESTORING),
        Waiting.AGGREGATION,
        "Round 7 is over; version 8 will be version 3 again.",
    ),
]


@pytest.mark.parametrize(("status", "waiting", "sentence"), TOLD)
def test_every_wait_has_a_word_and_a_sentence(status: RoundStatus, waiting: Waiting, sentence: str) -> None:
    assert waiting_for(status) == (waiting, sentence)


def test_every_word_for_waiting_is_used() -> None:
    assert {waiting for _, waiting, _ in TOLD} == set(Waiting)


# Weights


@pytest.mark.parametrize(
    ("base_round", "sample_count", "weight"),
    [(7, 0, 4), (7, 1, 4), (7, 2, 8), (7, 3, 8), (6, 2, 4), (6, 10**12, 4), (5, 20, 2), (5, 0, 1)],
)
def test_a_weight_is_samples_up_to_a_cap_times_lateness(base_round: int, sample_count: int, weight: int) -> None:
    assert weight_of(a_status(), base_round=base_round, sample_count=sample_count) == weight


@pytest.mark.parametrize(("max_samples", "weight_cap", "weight"), [(1, 20, 4), (2, 20, 8), (2, 8, 4), (None, 80, 40)])
def test_the_cap_per_contribution_is_the_policys_and_leaves_room_for_the_others(
    max_samples: int | None, weight_cap: int, weight: int
) -> None:
    status = a_status(policy=replace(POLICY, max_samples=max_samples), weight_cap=weight_cap)
    assert weight_of(status, base_round=7, sample_count=10**12) == weight
    assert weight * status.policy.min_participants <= weight_cap


def test_what_is_too_late_too_early_or_too_heavy_is_refused_by_name() -> None:
    with pytest.raises(RoundStale) as stale:
        weight_of(a_status(), base_round=4, sample_count=1)
    assert stale.value.variables == {"round": "4", "current_round": "7"}
    with pytest.raises(RoundAhead) as ahead:
        weight_of(a_status(), base_round=8, sample_count=1)
    assert ahead.value.variables == {"round": "8", "current_round": "7"}
    with pytest.raises(WeightCapReached) as heavy:
        weight_of(a_status(weight_cap=3), base_round=7, sample_count=1)
    assert heavy.value.variables == {"cap": "3"}


# Whatever happens

participants = st.sampled_from([ALICE, BOB, CAROL, DAVE])
connections = st.sampled_from(["", "", "older", "newer"])
times = st.sampled_from([0.0, 5.0, 10.0, 15.0, 40.0])
groups = st.lists(
    st.builds(Contribution, participants, st.sampled_from(["a1", "b1"]), st.just(0), st.integers(1, 9)),
    min_size=1,
    max_size=3,
).map(tuple)
numbers = st.sampled_from([0, 0, 0, 1, 1, 2])
events = st.one_of(
    st.builds(Joined, st.lists(participants, max_size=3).map(tuple), times, connections),
    st.builds(Left, participants, connections),
    st.builds(LeasesChecked),
    st.builds(PolicyChanged, st.sampled_from([POLICY, NEW_POLICY])),
    st.builds(GroupContributed, numbers, groups),
    st.builds(GroupContributed, numbers, groups),
    st.builds(ClosingStarted, numbers, st.sampled_from([REPLICA, OTHER_REPLICA]), times),
    st.builds(RestoringStarted, numbers, st.sampled_from([REPLICA, OTHER_REPLICA]), times, st.just(RESTORING)),
    st.builds(VersionPublished, numbers),
)


def after_every_event(check: Callable[[FederatedRound, Event, float, FederatedRound], None]) -> None:
    @given(st.lists(st.tuples(events, times), max_size=30))
    def play(history: list[tuple[Event, float]]) -> None:
        before = FederatedRound(task_id=TaskId("titanic"), epoch="e", policy=NEW_POLICY, weight_cap=20)
        for event, now in history:
            try:
                after = step(before, event, now)
            except (RoundMoved, NotDue, GroupConflict):
                continue
            check(before, event, now, after)
            before = after

    play()


def test_the_revision_grows_by_one_with_every_change_and_with_nothing_else() -> None:
    def check(before: FederatedRound, event: Event, now: float, after: FederatedRound) -> None:
        changed = replace(after, revision=before.revision) != before
        assert after.revision == before.revision + changed
        assert changed or after is before

    after_every_event(check)


def test_what_is_admitted_is_counted_once_and_stays() -> None:
    def check(before: FederatedRound, event: Event, now: float, after: FederatedRound) -> None:
        admitted = list(after.admissions.values())
        assert sorted(admission.position for admission in admitted) == list(range(len(admitted)))
        assert sum(admission.weight for admission in admitted) == after.total_weight <= after.weight_cap
        assert (after.first_contribution_at is None) == (not admitted)
        if after.number == before.number:
            assert before.admissions.items() <= after.admissions.items()
        else:
            assert after.contributions_ever == before.contributions_ever + len(before.admissions)

    after_every_event(check)


def test_every_state_can_be_left_without_anybodys_help() -> None:
    def check(before: FederatedRound, event: Event, now: float, after: FederatedRound) -> None:
        again = look_again_at(after.status)
        if again is not None:
            assert is_due(after.status, again)
            assert step(after, ClosingStarted(after.number, REPLICA, again + 1), again).state is State.AGGREGATING
        else:
            assert after.state is State.COLLECTING
            assert len(after.admissions) < after.policy.min_participants

    after_every_event(check)


def test_the_numbers_of_a_status_are_those_of_its_round() -> None:
    def check(before: FederatedRound, event: Event, now: float, after: FederatedRound) -> None:
        status = after.status
        everybody = set(after.leases) | set(after.admissions)
        assert status.participants + status.absent_contributors == len(everybody)
        assert status.contributions == len(after.admissions)
        assert waiting_for(status)[1]

    after_every_event(check)
