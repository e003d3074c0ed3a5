"""The store in memory passes the suite; it is what the others are compared with."""

from __future__ import annotations

import pytest

from roundstore.memory_store import MemoryRoundStore
from tests.roundstore.store_contract import EPOCH, POLICY, TASK, RoundStoreContract


@pytest.fixture
def fresh_epochs() -> list[str]:
    """The last one is given to whatever needs one."""
    return [EPOCH]


class TestMemoryRoundStore(RoundStoreContract):
    @pytest.fixture
    def store(self, fresh_epochs: list[str]) -> MemoryRoundStore:
        return MemoryRoundStore(new_epoch=lambda: fresh_epochs[-1])


async def test_every_store_gives_its_rounds_another_epoch() -> None:
    epochs = {(await MemoryRoundStore().open_round(TASK, POLICY, number=0, now=0.0)).epoch for _ in range(10)}
    assert len(epochs) == 10
