"""The models that a real Keras saved, unpacked, and TF.js."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.services.task_service.tfjs import installed


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with zipfile.ZipFile(Path(__file__).with_name("saved_models.zip")) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path:
    assert pytestconfig.cache is not None, "TF.js is kept in pytest's cache"
    return installed(pytestconfig.cache.mkdir("disco-tfjs")).node_modules
