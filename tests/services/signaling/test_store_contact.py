"""Whether the store answers is said once, and remembered."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from learning.refusals import PeerNotConnected, StoreUnavailable
from services.signaling.store_contact import StoreContact


def test_an_outage_is_logged_once_and_its_end_once() -> None:
    now = 100.0
    contact = StoreContact(lambda: now)
    with capture_logs() as logs:
        assert contact.steady_at(15.0) is None
        with contact.watched():
            pass
        assert contact.steady_at(15.0) == 115.0
        for _ in range(3):
            with pytest.raises(StoreUnavailable), contact.watched():
                raise StoreUnavailable
        contact.lose()
        assert contact.steady_at(15.0) is None
        now = 200.0
        for _ in range(3):
            with contact.watched():
                now += 1
        assert contact.steady_at(15.0) == 216.0
    assert [(each["event"], each["log_level"]) for each in logs] == [("store.lost", "warning"), ("store.found", "info")]


def test_a_refusal_says_nothing_about_the_store() -> None:
    contact = StoreContact(lambda: 100.0)
    with capture_logs() as logs, pytest.raises(PeerNotConnected), contact.watched():
        raise PeerNotConnected(peer_id="1")
    assert logs == []
