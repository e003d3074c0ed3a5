"""The store in memory passes the suite; it is what the others are compared with."""

from __future__ import annotations

import pytest

from roundstore.memory_store import MemoryRoundStore
from tests.roundstore.store_contract import EPOCH, POLICY, TASK, RoundStoreContract


class TestMemoryRoundStore(RoundStoreContract):
    @pytest.fixture
    def store(self) -> MemoryRoundStore:
        return MemoryRoundStore(new_epoch=lambda: EPOCH)


async def test_every_store_gives_its_rounds_another_epoch() -> None:
    epochs = {(await MemoryRoundStore().open_round(TASK, POLICY, number=0, now=0.0)).epoch for _ in range(10)}
    assert len(epochs) == 10
