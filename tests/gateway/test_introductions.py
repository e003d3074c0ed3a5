"""Introductions: who is handed a list, when, and together with whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.introductions import Introductions
from gateway.sessions.decentralized import Event, PeersListed
from tests.waiting import eventually

TASK = "task"
FOR_EVER = 3600.0


class Heard(list[tuple[str, Event]]):
    """What was handed to whom, in order."""

    def by(self, peer_id: str) -> Callable[[Event], None]:
        return lambda event: self.append((peer_id, event))


def list_for(peer_id: str, *, round: int = 0, members: str = "012") -> PeersListed:
    return PeersListed(round, tuple(member for member in members if member != peer_id))


@pytest.fixture
def heard() -> Heard:
    return Heard()


async def entered(heard: Heard, peer_ids: str, *, gather_s: float = FOR_EVER, task_id: str = TASK) -> Introductions:
    introductions = Introductions(gather_s=gather_s)
    for peer_id in peer_ids:
        introductions.enter(task_id, peer_id, heard.by(peer_id))
    return introductions


async def test_nobody_has_a_list_before_the_lists_of_all_are_here(heard: Heard) -> None:
    introductions = await entered(heard, "012")
    introductions.bring(TASK, "1", list_for("1"))
    introductions.bring(TASK, "0", list_for("0"))
    assert heard == []
    introductions.bring(TASK, "2", list_for("2"))
    assert heard == [(peer_id, list_for(peer_id)) for peer_id in "102"]


async def test_each_round_is_handed_out_anew(heard: Heard) -> None:
    introductions = await entered(heard, "01")
    for number in range(3):
        for peer_id in "01":
            introductions.bring(TASK, peer_id, list_for(peer_id, round=number, members="01"))
    assert [(peer_id, event.round) for peer_id, event in heard if isinstance(event, PeersListed)] == [
        (peer_id, number) for number in range(3) for peer_id in "01"
    ]


async def test_a_member_on_another_gateway_is_not_waited_for(heard: Heard) -> None:
    introductions = await entered(heard, "02")
    introductions.bring(TASK, "0", list_for("0"))
    introductions.bring(TASK, "2", list_for("2"))
    assert [peer_id for peer_id, _ in heard] == ["0", "2"]


async def test_a_member_of_the_same_number_in_another_task_is_not_waited_for(heard: Heard) -> None:
    introductions = await entered(heard, "01")
    introductions.enter("another", "2", heard.by("2"))
    introductions.bring(TASK, "0", list_for("0"))
    introductions.bring(TASK, "1", list_for("1"))
    assert [peer_id for peer_id, _ in heard] == ["0", "1"]


async def test_a_list_that_does_not_come_holds_the_others_up_for_a_moment_only(heard: Heard) -> None:
    introductions = await entered(heard, "012", gather_s=0.02)
    introductions.bring(TASK, "0", list_for("0"))
    introductions.bring(TASK, "1", list_for("1"))

    async def handed_out() -> bool:
        return bool(heard)

    await eventually(handed_out)
    assert [peer_id for peer_id, _ in heard] == ["0", "1"]
    introductions.bring(TASK, "2", list_for("2"))

    async def late_one_too() -> bool:
        return len(heard) == 3

    await eventually(late_one_too)
    assert heard[-1] == ("2", list_for("2"))


async def test_a_member_whose_stream_ends_is_waited_for_no_longer(heard: Heard) -> None:
    introductions = Introductions(gather_s=FOR_EVER)
    delivers = {peer_id: heard.by(peer_id) for peer_id in "012"}
    for peer_id, deliver in delivers.items():
        introductions.enter(TASK, peer_id, deliver)
    introductions.bring(TASK, "0", list_for("0"))
    introductions.bring(TASK, "1", list_for("1"))
    introductions.leave(TASK, "1", delivers["1"])
    assert heard == []
    introductions.leave(TASK, "2", delivers["2"])
    assert heard == [("0", list_for("0"))]


async def test_a_list_of_a_stream_that_is_over_is_not_handed_to_the_next_one(heard: Heard) -> None:
    introductions = await entered(heard, "01")
    introductions.bring(TASK, "0", list_for("0", members="01"))
    introductions.enter(TASK, "0", heard.by("0 again"))
    introductions.bring(TASK, "1", list_for("1", members="01"))
    await asyncio.sleep(0)
    assert heard == []
    introductions.bring(TASK, "0", list_for("0", members="01"))
    assert [who for who, _ in heard] == ["1", "0 again"]


async def test_the_end_of_an_earlier_stream_leaves_the_later_one_in_place(heard: Heard) -> None:
    introductions = await entered(heard, "1")
    earlier, later = heard.by("earlier"), heard.by("later")
    introductions.enter(TASK, "0", earlier)
    introductions.enter(TASK, "0", later)
    introductions.leave(TASK, "0", earlier)
    introductions.bring(TASK, "1", list_for("1", members="01"))
    introductions.bring(TASK, "0", list_for("0", members="01"))
    assert [who for who, _ in heard] == ["1", "later"]
