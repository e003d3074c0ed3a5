"""Hands the lists of one group to its members here in one go.

A client that has its list sends its weights to the others at once, over connections
that stay from round to round, and the published clients throw away weights that come
before their own list: then they wait for them for ever. The streams on which lists
come keep no step with each other. So the list of a member waits until those of all
members whose streams are here have come, or for GATHER_S.

Knows neither gRPC nor sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.sessions.decentralized import Event, PeersListed

GATHER_S = 0.2
"""Longer than a busy process needs for all lists of a group; short beside the second for which clients still wait."""

Deliver = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class _Group:
    task_id: str
    round: int
    members: frozenset[str]


@dataclass(slots=True)
class _Gathering:
    timer: asyncio.TimerHandle
    lists: dict[str, PeersListed] = field(default_factory=dict)


class Introductions:
    """One per gateway."""

    def __init__(self, *, gather_s: float = GATHER_S) -> None:
        self._gather_s = gather_s
        self._here: dict[tuple[str, str], Deliver] = {}
        self._gathering: dict[_Group, _Gathering] = {}

    def enter(self, task_id: str, peer_id: str, deliver: Deliver) -> None:
        """The stream of this peer is open here, in place of any earlier one."""
        if earlier := self._here.get((task_id, peer_id)):
            self.leave(task_id, peer_id, earlier)
        self._here[task_id, peer_id] = deliver

    def leave(self, task_id: str, peer_id: str, deliver: Deliver) -> None:
        """The stream is over; its peer may have another one by now. A list that still waits for others is forgotten:
        the next stream brings it again."""
        if self._here.get((task_id, peer_id)) == deliver:
            del self._here[task_id, peer_id]
            for group in [group for group in self._gathering if group.task_id == task_id and peer_id in group.members]:
                self._gathering[group].lists.pop(peer_id, None)
                self._hand_out_if_complete(group)

    def bring(self, task_id: str, peer_id: str, listed: PeersListed) -> None:
        """The list of a member that entered."""
        group = _Group(task_id, listed.round, frozenset((peer_id, *listed.peer_ids)))
        if group not in self._gathering:
            timer = asyncio.get_running_loop().call_later(self._gather_s, self._hand_out, group)
            self._gathering[group] = _Gathering(timer)
        self._gathering[group].lists[peer_id] = listed
        self._hand_out_if_complete(group)

    def _hand_out_if_complete(self, group: _Group) -> None:
        lists = self._gathering[group].lists
        if all(peer_id in lists for peer_id in group.members if (group.task_id, peer_id) in self._here):
            self._hand_out(group)

    def _hand_out(self, group: _Group) -> None:
        gathering = self._gathering.pop(group)
        gathering.timer.cancel()
        for peer_id, listed in gathering.lists.items():
            self._here[group.task_id, peer_id](listed)
