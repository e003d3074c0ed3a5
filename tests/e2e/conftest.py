"""Fixtures of the end-to-end tests: the running system, the published client, rows to train on."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.real_clients import install
from tests.e2e.system import System

# A Docker engine is nothing that a test can install: `make test-compose` asks for these.
collect_ignore = [] if os.environ.get("DISCO_TEST_COMPOSE") == "1" else ["test_compose.py"]

COLUMNS = ("Age", "SibSp", "Parch", "Fare", "Pclass", "Survived")


@pytest.fixture(scope="session")
def real_client(pytestconfig: pytest.Config) -> Path:
    """The folder from which the published client runs. DISCO_TEST_NODE_MODULES keeps it between machines' caches."""
    cache = os.environ.get("DISCO_TEST_NODE_MODULES")
    folder = Path(cache) if cache else Path(pytestconfig.cache.mkdir("real-clients"))  # type: ignore[union-attr]
    return install(folder / "disco-2.1.1")


@pytest_asyncio.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """The whole system, running, with an empty directory."""
    running = System(tmp_path / "data")
    await running.start()
    yield running
    await running.stop()


def titanic_rows(seed: int, count: int) -> list[list[float]]:
    """Rows of made-up passengers: who pays more and travels in a better class survives more often."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        pclass = rng.choice((1, 2, 3))
        fare = round(rng.uniform(5, 40) * (4 - pclass), 2)
        age = float(rng.randint(1, 70))
        survived = float(rng.random() < 0.2 + 0.25 * (3 - pclass))
        rows.append([age, float(rng.randint(0, 3)), float(rng.randint(0, 2)), fare, float(pclass), survived])
    return rows


def write_csv(path: Path, rows: list[list[float]]) -> Path:
    lines = [",".join(COLUMNS), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path
