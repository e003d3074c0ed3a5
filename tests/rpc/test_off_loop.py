"""Long work goes to a thread, short work does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from rpc.off_loop import LONG_BYTES, PIECES, off_loop, side_by_side


@pytest.mark.parametrize(("size", "on_loop"), [(0, True), (LONG_BYTES - 1, True), (LONG_BYTES, False)])
async def test_long_work_leaves_the_event_loop(size: int, on_loop: bool) -> None:
    ran_in = await off_loop(size, threading.get_ident)
    assert (ran_in == threading.get_ident()) is on_loop


async def test_work_gets_its_arguments_and_its_errors_come_back() -> None:
    assert await off_loop(LONG_BYTES, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await off_loop(LONG_BYTES, divmod, 7, 0)


@pytest.mark.parametrize(("size", "count"), [(LONG_BYTES - 1, 1), (LONG_BYTES, PIECES)])
async def test_every_piece_of_long_work_is_done_once(size: int, count: int) -> None:
    done: list[int] = []

    def split(into: int) -> list[Callable[[], None]]:
        return [partial(done.append, piece) for piece in range(into)]

    await side_by_side(size, split)
    assert sorted(done) == list(range(count))
