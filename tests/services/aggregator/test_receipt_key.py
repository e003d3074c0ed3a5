"""The key of receipts: one for the installation, made once, readable by its owner only."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from disco.aggregator.v1 import aggregator_service_pb2

from blobstore import names
from blobstore.directory import DirectoryBlobStore
from learning.receipts import Statement, key_id
from roundstore.redis_store import RedisRoundStore
from services.aggregator.__main__ import receipt_key
from services.aggregator.receipt_key import NotAReceiptKey, ReceiptKey, new_pem, shared_key
from services.aggregator.settings import AggregatorSettings
from tests.services.aggregator.room import TASK, opened, weights_of

STATEMENT = Statement(task_id="titanic", round=7, participant_id="alice", digest="ab" * 32, weight=20, position=3)


async def test_aggregators_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    # "always" writes in threads, so that all have looked for a key before the first one is there.
    async with DirectoryBlobStore(tmp_path, "always") as one, DirectoryBlobStore(tmp_path, "always") as other:
        keys = await asyncio.gather(*(shared_key(store) for store in [one, other] * 8))
    assert len({key.public_key for key in keys}) == 1
    assert len({key.sign(STATEMENT) for key in keys}) == 1


async def test_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    async with DirectoryBlobStore(tmp_path) as store:
        await shared_key(store)
        await store.write("tasks/titanic/task.json", [b"{}"])
    assert stat.S_IMODE((tmp_path / "keys" / "receipt.ed25519").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tasks" / "titanic" / "task.json").stat().st_mode) != 0o600


def test_key_is_told_in_both_forms() -> None:
    key = ReceiptKey.from_pem(new_pem())
    public = serialization.load_pem_public_key(key.pem.encode())
    assert isinstance(public, Ed25519PublicKey)
    assert public.public_bytes_raw() == key.public_key
    assert key.key_id == key_id(key.public_key)


def test_a_signature_holds_for_what_was_signed_and_for_nothing_else() -> None:
    key = ReceiptKey.from_pem(new_pem())
    public = Ed25519PublicKey.from_public_bytes(key.public_key)
    public.verify(key.sign(STATEMENT), STATEMENT.encode())
    with pytest.raises(InvalidSignature):
        public.verify(key.sign(STATEMENT), STATEMENT.encode() + b"\0")


def pem_of_another_kind() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ReceiptKey.from_pem(new_pem()).pem.encode(),
        pem_of_another_kind(),
    ],
    ids=["empty", "cut off", "the public half", "of another kind"],
)
async def test_what_is_no_key_is_never_replaced_by_another_one(tmp_path: Path, pem: bytes) -> None:
    async with DirectoryBlobStore(tmp_path) as store:
        await store.write(names.receipt_key(), [pem])
        with pytest.raises(NotAReceiptKey):
            await shared_key(store)
        with pytest.raises(SystemExit, match=r"keys/receipt\.ed25519 in the blob store is no Ed25519 private key"):
            await receipt_key(AggregatorSettings(data_dir=tmp_path), store)
        assert await store.read(names.receipt_key()) == pem


async def test_an_operators_own_key_wins_and_none_is_made(tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    own.write_bytes(new_pem())
    async with DirectoryBlobStore(tmp_path / "data") as store:
        key = await receipt_key(AggregatorSettings(receipt_key=own), store)
        assert key.public_key == ReceiptKey.from_pem(own.read_bytes()).public_key
        assert await store.list("keys") == []
        own.unlink()
        with pytest.raises(SystemExit, match=r"Cannot read the receipt key .*own\.pem .*: No such file or directory"):
            await receipt_key(AggregatorSettings(receipt_key=own), store)


async def test_every_replica_signs_alike_and_tells_its_key(store: RedisRoundStore, tmp_path: Path) -> None:
    async with opened(store, tmp_path) as room, room.members(2) as (first, second):
        receipt = await first.submit("a", weights_of(0), sample_count=4)
        again = await second.submit("a", weights_of(0), sample_count=4)
        answer = await second.stub.GetReceiptKey(aggregator_service_pb2.GetReceiptKeyRequest())
        entry = Statement(TASK, 0, "a", receipt.sha256.hex(), receipt.weight, receipt.position)
    assert again.SerializeToString(deterministic=True) == receipt.SerializeToString(deterministic=True)
    assert answer.key.key_id == receipt.key_id == key_id(answer.key.public_key)
    Ed25519PublicKey.from_public_bytes(answer.key.public_key).verify(receipt.signature, entry.encode())
