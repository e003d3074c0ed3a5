"""The tables from reasons to close codes and to HTTP statuses."""

from __future__ import annotations

import pytest

from gateway.close_codes import CLOSE_CODES, MAX_REASON_BYTES, close_frame
from gateway.problems import STATUSES
from learning.refusals import BY_REASON, Fault, ShuttingDown, TaskNotFound


@pytest.mark.parametrize("table", [CLOSE_CODES, STATUSES], ids=["close codes", "statuses"])
def test_table_has_every_reason_and_no_other(table: dict[str, int]) -> None:
    assert table.keys() == BY_REASON.keys()


def test_codes_are_the_applications_or_have_their_meaning_from_the_standard() -> None:
    own = [code for code in CLOSE_CODES.values() if code not in (1009, 1011)]
    assert all(4000 <= code < 5000 for code in own)
    assert len(set(own)) == len(own)


def test_client_comes_back_after_what_passes() -> None:
    for reason in ("SHUTDOWN", "STORE_UNAVAILABLE"):
        assert issubclass(BY_REASON[reason], Fault)
        assert 4000 <= CLOSE_CODES[reason] < 4500


def test_reason_fits_into_a_control_frame() -> None:
    code, text = close_frame(TaskNotFound(task_id="ü" * 128))
    assert code == 4504
    assert len(text.encode()) <= MAX_REASON_BYTES
    assert text.startswith("TASK_NOT_FOUND: There is no task üü")
    assert close_frame(ShuttingDown()) == (
        4000,
        "SHUTDOWN: This process is stopping. Try again; another one will answer.",
    )
