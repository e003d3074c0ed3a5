"""The rules of decentralized rounds: the whole table, and random histories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.decentralized import (
    GROUPS_KEPT,
    Connected,
    DecentralizedRound,
    Event,
    Group,
    LeasesChecked,
    Left,
    MarkedReady,
    PeerIdTaken,
    ReadyMark,
    Renewed,
    Seat,
    Stream,
    StreamBroken,
    TimePassed,
    Waiting,
    look_again_at,
    may_signal,
    missed_group,
    next_lease_end,
    seat_of,
    step,
    waiting_for,
)
from learning.ids import PeerId, ReplicaId
from learning.policy import Policy
from learning.refusals import PeerReplaced

POLICY = Policy(min_participants=2)
NOW = 100.0


def stream(number: int) -> Stream:
    return Stream(ReplicaId("replica"), number)


def peer(number: int) -> PeerId:
    return PeerId(str(number))


def seat(number: int, **changes: object) -> Seat:
    """The seat of peer `number`, held by stream `number`."""
    held = Seat(
        peer_id=peer(number),
        token_digest=f"token-{number}",
        client_digest="",
        since_round=0,
        lease_until=NOW + 30,
        stream=stream(number),
    )
    return replace(held, **changes)  # type: ignore[arg-type]


def a_round(*numbers: int, ready: tuple[int, ...] = (), **changes: object) -> DecentralizedRound:
    """A round with these peers present, some of them ready without an end to their patience."""
    return replace(
        DecentralizedRound(
            seats={peer(number): seat(number) for number in numbers},
            marks={peer(number): ReadyMark(since=NOW, until=None) for number in ready},
        ),
        **changes,  # type: ignore[arg-type]
    )


def after(round: DecentralizedRound, *events: Event, now: float = NOW, policy: Policy = POLICY) -> DecentralizedRound:
    current = round
    for event in events:
        current = step(current, event, now=now, policy=policy)
    return current


def connecting(number: int, *, claims: int | None = None, token: str = "", client: str = "") -> Connected:
    """Stream `number` opens; peer id `number` and a token of that number are kept ready for it."""
    return Connected(
        stream=stream(number),
        lease_until=NOW + 40,
        claimed_peer_id=None if claims is None else peer(claims),
        claimed_token_digest=token,
        client_digest=client,
        fresh_peer_id=peer(number),
        fresh_token_digest=f"token-{number}",
    )


# The table: each event, with the seat held by the stream, held by another stream, and missing.

HELD = a_round(1, 2)
TAKEN_OVER = a_round(1, 2, seats={peer(1): seat(1, stream=stream(9)), peer(2): seat(2)})
MISSING = a_round(2)
MARK = {peer(1): ReadyMark(since=NOW, until=NOW + 9)}


def with_seat(round: DecentralizedRound, *seats: Seat, **changes: object) -> DecentralizedRound:
    moved = {**round.seats, **{held.peer_id: held for held in seats}}
    return replace(round, seats=moved, revision=round.revision + 1, **changes)  # type: ignore[arg-type]


GRID: list[tuple[str, DecentralizedRound, Event, DecentralizedRound]] = [
    ("renewed", HELD, Renewed((seat(1),), 0, NOW + 50), with_seat(HELD, seat(1, lease_until=NOW + 50))),
    ("renewed, taken over", TAKEN_OVER, Renewed((seat(1),), 0, NOW + 50), TAKEN_OVER),
    ("renewed, missing", MISSING, Renewed((seat(1),), 0, NOW + 50), with_seat(MISSING, seat(1, lease_until=NOW + 50))),
    ("marked", HELD, MarkedReady(seat(1), 0, NOW + 9), with_seat(HELD, marks=MARK)),
    ("marked, missing", MISSING, MarkedReady(seat(1), 0, NOW + 9), with_seat(MISSING, seat(1), marks=MARK)),
    ("broken", HELD, StreamBroken(seat(1)), with_seat(HELD, seat(1, stream=None))),
    ("broken, taken over", TAKEN_OVER, StreamBroken(seat(1)), TAKEN_OVER),
    ("broken, missing", MISSING, StreamBroken(seat(1)), MISSING),
    ("left", HELD, Left(seat(1)), replace(MISSING, revision=1)),
    ("left, taken over", TAKEN_OVER, Left(seat(1)), TAKEN_OVER),
    ("left, missing", MISSING, Left(seat(1)), MISSING),
    ("leases checked", HELD, LeasesChecked(), HELD),
    ("leases checked, none there", DecentralizedRound(), LeasesChecked(), DecentralizedRound()),
    ("time passed", HELD, TimePassed(), HELD),
    ("connected, nothing claimed", MISSING, connecting(3), with_seat(MISSING, seat(3, lease_until=NOW + 40))),
    (
        "connected, the token fits",
        HELD,
        connecting(3, claims=1, token="token-1"),
        with_seat(HELD, seat(1, stream=stream(3), lease_until=NOW + 40)),
    ),
    (
        "connected, the token is wrong",
        HELD,
        connecting(3, claims=1, token="token-2"),
        with_seat(HELD, seat(3, lease_until=NOW + 40)),
    ),
    (
        "connected, the id is unknown",
        MISSING,
        connecting(3, claims=1, token="token-1"),
        with_seat(MISSING, seat(3, lease_until=NOW + 40)),
    ),
]


@pytest.mark.parametrize(("before", "event", "expected"), [row[1:] for row in GRID], ids=[row[0] for row in GRID])
def test_every_event_does_what_the_table_says(
    before: DecentralizedRound, event: Event, expected: DecentralizedRound
) -> None:
    result = step(before, event, now=NOW, policy=POLICY)
    assert result == expected
    assert (result is before) == (expected == before)


def test_a_stream_that_was_replaced_cannot_mark_its_peer_ready() -> None:
    with pytest.raises(PeerReplaced, match="Peer 1 has connected again elsewhere"):
        step(TAKEN_OVER, MarkedReady(seat(1), 0, None), now=NOW, policy=POLICY)


def test_a_seat_is_given_up_at_the_end_of_its_lease_and_its_mark_with_it() -> None:
    current = a_round(1, 2, ready=(1,))
    assert next_lease_end(current) == NOW + 30
    assert after(current, LeasesChecked(), now=NOW + 29.9) is current
    assert after(current, LeasesChecked(), now=NOW + 30) == DecentralizedRound(revision=1)
    assert next_lease_end(DecentralizedRound()) is None


def test_a_seat_whose_lease_has_ended_is_still_given_back_until_somebody_looks() -> None:
    back = after(a_round(1), connecting(3, claims=1, token="token-1"), now=NOW + 1000)
    assert seat_of(back, stream(3)) == seat(1, stream=stream(3), lease_until=NOW + 40)


def test_the_ready_mark_survives_a_broken_stream_and_a_return_with_the_token() -> None:
    current = after(a_round(1, 2, ready=(1,)), StreamBroken(seat(1)), connecting(3, claims=1, token="token-1"))
    assert current.marks == {peer(1): ReadyMark(since=NOW, until=None)}


def test_a_client_id_gives_the_seat_back_without_a_token_but_not_the_ready_mark() -> None:
    current = a_round(2, number=5)
    current = after(current, connecting(1, client="c"), MarkedReady(seat(1), 0, None), connecting(7, client="c"))
    assert seat_of(current, stream(1)) is None
    assert seat_of(current, stream(7)) == seat(
        1, token_digest="token-7", client_digest="c", since_round=5, lease_until=NOW + 40, stream=stream(7)
    )
    assert current.marks == {}


def test_no_client_id_matches_no_other() -> None:
    current = after(DecentralizedRound(), connecting(1), connecting(2))
    assert list(current.seats) == ["1", "2"]


def test_an_id_that_somebody_has_is_not_given_again() -> None:
    with pytest.raises(PeerIdTaken):
        step(TAKEN_OVER, connecting(1), now=NOW, policy=POLICY)
    again = after(MISSING, connecting(1))
    assert after(again, connecting(1)) is again


def test_the_first_group_is_formed_when_enough_are_ready() -> None:
    current = after(a_round(10, 9, 8), MarkedReady(seat(10), 0, None))
    assert (current.number, current.groups) == (0, ())
    current = after(current, MarkedReady(seat(9), 0, None))
    assert current.groups == (Group(0, (peer(9), peer(10))),)
    assert current.groups[0].others(peer(9)) == ("10",)
    assert (current.number, current.marks, current.standing) == (1, {}, ("9", "10"))


def test_a_group_of_one_is_formed_where_the_policy_says_so() -> None:
    current = after(a_round(1), MarkedReady(seat(1), 0, None), policy=Policy(min_participants=1))
    assert current.groups == (Group(0, (peer(1),)),)


def test_a_group_waits_for_all_of_the_standing_group_and_takes_newcomers_in() -> None:
    current = a_round(1, 2, 3, 4, standing=(peer(1), peer(2)), number=1)
    current = after(current, MarkedReady(seat(3), 0, None), MarkedReady(seat(1), 0, None))
    assert current.groups == ()
    assert waiting_for(current, POLICY) == (
        Waiting.STANDING_GROUP,
        "Round 1 waits for 1 of the 2 peers of the last group; 2 are ready, "
        "and go ahead before the first of them gives up.",
    )
    current = after(current, MarkedReady(seat(2), 0, None))
    assert current.groups == (Group(1, (peer(1), peer(2), peer(3))),)
    assert current.standing == ("1", "2", "3")


@pytest.mark.parametrize("how", [Left(seat(3)), LeasesChecked()])
def test_a_group_is_formed_when_the_one_it_waited_for_is_gone(how: Event) -> None:
    current = a_round(1, 2, 3, ready=(1, 2), standing=(peer(1), peer(2), peer(3)))
    current = replace(current, seats={**current.seats, peer(3): seat(3, lease_until=NOW)})
    assert after(current, TimePassed()) is current
    assert after(current, how).groups == (Group(0, (peer(1), peer(2))),)


def test_the_rest_of_a_standing_group_that_became_too_small_is_free_again() -> None:
    current = a_round(1, 2, 3, 4, ready=(3,), standing=(peer(1), peer(2)))
    current = after(current, Left(seat(2)))
    assert current.standing == ()
    assert after(current, MarkedReady(seat(4), 0, None)).groups == (Group(0, (peer(3), peer(4))),)


def test_those_who_are_ready_go_ahead_before_the_first_of_them_gives_up() -> None:
    current = a_round(1, 2, 3, standing=(peer(1), peer(2), peer(3)))
    current = after(current, MarkedReady(seat(1), 0, NOW + 9), MarkedReady(seat(2), 0, NOW + 14))
    assert look_again_at(current, POLICY) == NOW + 8
    assert after(current, TimePassed(), now=NOW + 7.9) is current
    formed = after(current, TimePassed(), now=NOW + 8)
    assert formed.groups == (Group(0, (peer(1), peer(2))),)
    assert formed.standing == ("1", "2")


def test_short_patience_still_leaves_half_of_it_to_gather() -> None:
    current = a_round(1, 2, 3, standing=(peer(1), peer(2), peer(3)))
    current = after(current, MarkedReady(seat(1), 0, NOW + 1), MarkedReady(seat(2), 0, None))
    assert look_again_at(current, POLICY) == NOW + 0.5


def test_where_patience_has_no_end_the_policy_s_deadline_holds() -> None:
    current = a_round(1, 2, 3, standing=(peer(1), peer(2), peer(3)), ready=(1, 2))
    assert look_again_at(current, POLICY) == NOW + POLICY.deadline_s
    assert after(current, TimePassed(), now=NOW + POLICY.deadline_s).groups == (Group(0, (peer(1), peer(2))),)


def test_a_mark_that_has_ended_is_removed_and_nobody_is_grouped_with_it() -> None:
    current = after(a_round(1, 2), MarkedReady(seat(1), 0, NOW + 9))
    assert look_again_at(current, POLICY) == NOW + 9
    assert after(current, TimePassed(), now=NOW + 8.5) is current
    assert after(current, TimePassed(), now=NOW + 9).marks == {}
    late = after(current, MarkedReady(seat(2), 0, NOW + 20), now=NOW + 9)
    assert (late.groups, list(late.marks)) == ((), ["2"])


def test_marking_again_keeps_the_start_and_moves_the_end() -> None:
    current = after(a_round(1), MarkedReady(seat(1), 0, NOW + 9))
    current = after(current, MarkedReady(seat(1), 0, NOW + 12), now=NOW + 3)
    assert current.marks == {peer(1): ReadyMark(since=NOW, until=NOW + 12)}


def test_a_mark_that_is_written_again_after_its_group_was_formed_is_no_mark_for_the_next_round() -> None:
    current = after(a_round(1, 2), MarkedReady(seat(1), 0, None), MarkedReady(seat(2), 0, None))
    assert after(current, MarkedReady(seat(1), 0, None)) is current
    assert list(after(current, MarkedReady(seat(1), 1, None)).marks) == ["1"]


def test_a_round_with_nobody_ready_settles_never() -> None:
    assert look_again_at(a_round(1, 2), POLICY) is None


def of_two_protocols(*numbers: int, **changes: object) -> DecentralizedRound:
    """Peers with even numbers speak one protocol with each other, those with odd numbers another one."""
    seats = {peer(number): seat(number, protocol="even" if number % 2 == 0 else "odd") for number in numbers}
    return a_round(seats=seats, **changes)


def test_peers_of_different_protocols_are_never_in_one_group() -> None:
    current = of_two_protocols(1, 2, 3, 4)
    current = after(current, MarkedReady(current.seats[peer(1)], 0, None), MarkedReady(current.seats[peer(2)], 0, None))
    assert current.groups == ()
    assert look_again_at(current, POLICY) is None
    current = after(current, MarkedReady(current.seats[peer(4)], 0, None))
    assert current.groups == (Group(0, (peer(2), peer(4))),)
    assert list(current.marks) == ["1"]
    current = after(current, MarkedReady(current.seats[peer(3)], 0, None))
    assert current.groups[1:] == (Group(1, (peer(1), peer(3))),)
    assert (current.number, current.marks, current.standing) == (2, {}, ("2", "4", "1", "3"))
    assert after(current, TimePassed()) is current


def test_nobody_waits_for_a_standing_group_of_another_protocol() -> None:
    current = of_two_protocols(1, 2, 3, 4, standing=(peer(2), peer(4)))
    current = after(current, MarkedReady(current.seats[peer(1)], 0, None), MarkedReady(current.seats[peer(3)], 0, None))
    assert current.groups == (Group(0, (peer(1), peer(3))),)
    current = after(current, MarkedReady(current.seats[peer(2)], 0, NOW + 9))
    assert waiting_for(current, POLICY)[1] == "Round 1 waits for peers to be ready: 1 of at least 2; 2 are present."


def test_groups_of_two_protocols_can_be_due_at_the_same_time() -> None:
    current = of_two_protocols(1, 2, 3, 4, 5, 6, standing=tuple(peer(number) for number in range(1, 7)))
    for number in (1, 2, 3, 4):
        current = after(current, MarkedReady(current.seats[peer(number)], 0, NOW + 9))
    assert look_again_at(current, POLICY) == NOW + 8
    current = after(current, TimePassed(), now=NOW + 8)
    assert current.groups == (Group(0, (peer(2), peer(4))), Group(1, (peer(1), peer(3))))


def test_a_seat_that_is_taken_up_again_keeps_its_protocol() -> None:
    current = of_two_protocols(1, 2)
    current = after(current, connecting(5, claims=1, token="token-1"), connecting(6))
    assert [held.protocol for held in current.seats.values()] == ["odd", "even", ""]


def test_what_is_waited_for_has_a_name_and_a_sentence() -> None:
    assert waiting_for(a_round(1), POLICY) == (
        Waiting.PEERS,
        "Round 0 waits for peers: 1 of at least 2 are present.",
    )
    assert waiting_for(a_round(1, 2, ready=(2,)), POLICY) == (
        Waiting.READY_PEERS,
        "Round 0 waits for peers to be ready: 1 of at least 2; 2 are present.",
    )


GROUPED = a_round(1, 2, 3, groups=(Group(4, (peer(1), peer(2))), Group(5, (peer(2), peer(3)))), number=6)


@pytest.mark.parametrize(
    ("number", "next_round", "round"),
    [(1, 0, 4), (1, 4, 4), (1, 5, None), (2, 0, 5), (2, 5, 5), (2, 6, None), (7, 0, None)],
)
def test_a_peer_missed_the_newest_of_its_groups_that_it_has_not_seen(
    number: int, next_round: int, round: int | None
) -> None:
    missed = missed_group(GROUPED, peer(number), next_round=next_round)
    assert (missed.round if missed else None) == round


def test_a_client_that_began_anew_has_missed_no_earlier_group() -> None:
    current = with_seat(GROUPED, seat(1, since_round=6))
    assert missed_group(current, peer(1), next_round=0) is None


@pytest.mark.parametrize(
    ("sender", "to", "may"), [(1, 2, True), (2, 1, True), (2, 3, True), (1, 3, False), (1, 1, False), (1, 7, False)]
)
def test_peers_may_signal_each_other_once_they_were_introduced(sender: int, to: int, may: bool) -> None:
    assert may_signal(GROUPED, peer(sender), peer(to)) is may


def test_nobody_may_signal_a_peer_that_is_gone() -> None:
    assert not may_signal(after(GROUPED, Left(seat(2))), peer(1), peer(2))


def test_only_the_newest_groups_are_remembered() -> None:
    current = a_round(1, 2)
    for _ in range(GROUPS_KEPT + 3):
        told = current.number
        current = after(current, MarkedReady(seat(1), told, None), MarkedReady(seat(2), told, None))
    assert [group.round for group in current.groups] == list(range(3, GROUPS_KEPT + 3))


def test_a_renewal_does_not_claim_that_a_list_was_seen() -> None:
    current = after(GROUPED, Renewed((seat(1),), 6, NOW + 50))
    missed = missed_group(current, peer(1), next_round=4)
    assert missed is not None
    assert missed.round == 4


def test_a_store_that_forgot_everything_is_told_the_number_of_the_round() -> None:
    current = after(DecentralizedRound(), Renewed((seat(1, since_round=5), seat(2)), 7, NOW + 30))
    assert (current.number, list(current.seats)) == (7, ["1", "2"])
    assert after(DecentralizedRound(), MarkedReady(seat(1), 7, None)).number == 7


# Random histories.


@dataclass
class World:
    """Peers as they see themselves, beside the round as the rules keep it."""

    policy: Policy
    round: DecentralizedRound = field(default_factory=DecentralizedRound)
    now: float = NOW
    streams: int = 0
    seats: dict[int, Seat] = field(default_factory=dict)
    history: list[Group] = field(default_factory=list)
    protocols: int = 1

    def protocol_of(self, who: int) -> str:
        return f"protocol-{who // 2 % self.protocols}"

    def apply(self, event: Event) -> None:
        before = self.round
        try:
            self.round = step(before, event, now=self.now, policy=self.policy)
        except PeerReplaced:
            self.round = step(before, TimePassed(), now=self.now, policy=self.policy)
        assert self.round.revision == before.revision + (self.round is not before)
        self.history += [group for group in self.round.groups if group.round >= before.number]

    def connect(self, who: int, returns: bool) -> None:
        self.streams += 1
        earlier = self.seats.get(who) if returns else None
        self.apply(
            replace(
                connecting(self.streams),
                lease_until=self.now + 30,
                claimed_peer_id=earlier.peer_id if earlier else None,
                claimed_token_digest=earlier.token_digest if earlier else "",
                client_digest=f"client-{who}" if who % 2 else "",
                protocol=self.protocol_of(who),
            )
        )
        held = seat_of(self.round, stream(self.streams))
        assert held is not None
        self.seats[who] = held

    def do(self, what: str, who: int, seconds: float) -> None:
        self.now += seconds
        if what == "connect":
            return self.connect(who, returns=seconds < 3)
        if what == "check":
            return self.apply(LeasesChecked())
        if what == "pass":
            return self.apply(TimePassed())
        if who not in self.seats:
            return self.apply(TimePassed())
        held, told = self.seats[who], self.round.number
        events: dict[str, Callable[[], Event]] = {
            "mark": lambda: MarkedReady(held, told, self.now + 9),
            "mark for ever": lambda: MarkedReady(held, told, None),
            "break": lambda: StreamBroken(held),
            "leave": lambda: Left(held),
            "renew": lambda: Renewed((held,), told, self.now + 30),
        }
        return self.apply(events[what]())


WHATS = ["connect", "connect", "mark", "mark", "mark", "mark for ever", "break", "leave", "renew", "check", "pass"]
MOVES = st.lists(st.tuples(st.sampled_from(WHATS), st.integers(0, 4), st.sampled_from([0, 0, 1, 5, 9])), max_size=60)


@given(moves=MOVES, least=st.integers(1, 3), protocols=st.integers(1, 2))
def test_in_every_history_groups_are_large_enough_and_nobody_is_in_two_of_one_round(
    moves: list[tuple[str, int, float]], least: int, protocols: int
) -> None:
    world = World(Policy(min_participants=least), protocols=protocols)
    spoken: dict[PeerId, str] = {}
    for what, who, seconds in moves:
        world.do(what, who, seconds)
        current = world.round
        assert set(current.marks) <= set(current.seats)
        assert all(mark.until is None or mark.until > world.now for mark in current.marks.values())
        assert set(current.standing) <= set(current.seats)
        spoken |= {who: held.protocol for who, held in current.seats.items()}
        for protocol in set(spoken.values()):
            standing = [who for who in current.standing if spoken[who] == protocol]
            assert not standing or len(standing) >= least
        wake = look_again_at(current, world.policy)
        assert wake is None or wake > world.now, "a round that is due has settled"
    rounds = [group.round for group in world.history]
    assert rounds == sorted(set(rounds)), "one group for each number, in order"
    for group in world.history:
        assert len(group.members) >= least
        assert len({spoken[member] for member in group.members}) == 1
        assert list(group.members) == sorted(set(group.members), key=int)
