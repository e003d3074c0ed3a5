"""Where blobs lie comes from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from blobstore.settings import BlobSettings


def test_without_settings_blobs_lie_in_data_and_a_second_may_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISCO_DATA_DIR", "DISCO_DURABILITY"):
        monkeypatch.setenv(name, "")
    assert BlobSettings() == BlobSettings(data_dir=Path("data"), durability="second")


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_DATA_DIR", "/var/lib/disco")
    monkeypatch.setenv("DISCO_DURABILITY", "always")
    assert BlobSettings() == BlobSettings(data_dir=Path("/var/lib/disco"), durability="always")


def test_another_durability_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_DURABILITY", "sometimes")
    with pytest.raises(ValidationError):
        BlobSettings()
