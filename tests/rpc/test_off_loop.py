"""Long work goes to a thread, short work does not."""

from __future__ import annotations

import threading

import pytest

from rpc.off_loop import LONG_BYTES, off_loop


@pytest.mark.parametrize(("size", "on_loop"), [(0, True), (LONG_BYTES - 1, True), (LONG_BYTES, False)])
async def test_long_work_leaves_the_event_loop(size: int, on_loop: bool) -> None:
    ran_in = await off_loop(size, threading.get_ident)
    assert (ran_in == threading.get_ident()) is on_loop


async def test_work_gets_its_arguments_and_its_errors_come_back() -> None:
    assert await off_loop(LONG_BYTES, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await off_loop(LONG_BYTES, divmod, 7, 0)
