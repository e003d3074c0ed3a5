"""Clients stop after the same round, and rates come from many moments."""

from __future__ import annotations

from bench.clients import Course
from bench.frames import Prepared
from bench.rows import rate

FRAME = Prepared(head_size=0, head=b"", rest=b"", round_at=0, varied_at=(0, 0))


def test_everybody_takes_part_in_the_last_round_that_somebody_began() -> None:
    course = Course(FRAME, rounds_limit=3, seconds=60.0)
    course.begin()
    for done in range(3):
        assert course.may_contribute(done)
    assert not course.may_contribute(3)  # the fastest client has reached the limit
    assert course.last_round == 3
    assert course.may_contribute(2)  # the slowest still owes its third contribution
    assert not course.may_contribute(3)


def test_no_round_begins_when_time_is_over() -> None:
    course = Course(FRAME, rounds_limit=1000, seconds=0.0)
    course.begin()
    assert not course.may_contribute(0)


def test_a_round_is_closed_when_the_last_client_has_its_answer() -> None:
    course = Course(FRAME, rounds_limit=1000, seconds=60.0)
    course.answered(1, 0.1, clients=2)
    assert course.closed_at == []
    course.answered(1, 0.3, clients=2)
    assert len(course.closed_at) == 1
    assert course.latencies == [0.1, 0.3]


def test_a_disturbance_does_not_change_the_rate() -> None:
    calm = [number / 10 for number in range(51)]
    assert rate(calm) == 10.0
    assert rate([moment + (5.0 if moment >= 4.5 else 0.0) for moment in calm]) == 10.0
