"""Entries form a chain, and the root of an entry is over what the receipts of its contributions state."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from blobstore import ledger, records
from blobstore.records import LedgerEntry, LedgerLine
from learning import merkle
from learning.receipts import Statement

LINES = tuple(
    LedgerLine(participant_id=who, digest=f"{seed:02x}" * 32, base_round=6 - late, weight=weight, position=seed)
    for seed, (who, late, weight) in enumerate([("alice", 0, 4), ("bob", 1, 2), ("carol", 0, 40)])
)
ENTRY = LedgerEntry(
    version=7,
    digest="d1" * 32,
    base_digest="d0" * 32,
    create_time=1.5,
    total_weight=46,
    weight_cap=100,
    contributions=LINES,
    task_id="titanic",
    previous="ee" * 32,
)


def test_leaves_are_what_the_receipts_state_in_the_order_of_positions() -> None:
    stated = [
        Statement("titanic", 6, "alice", "00" * 32, 4, 0),
        Statement("titanic", 6, "bob", "01" * 32, 2, 1),
        Statement("titanic", 6, "carol", "02" * 32, 40, 2),
    ]
    assert ledger.leaves(ENTRY) == [hashlib.sha256(b"\0" + each.encode()).digest() for each in stated]


def test_root_is_over_the_leaves() -> None:
    first, second, third = ledger.leaves(ENTRY)
    pair = hashlib.sha256(b"\1" + first + second).digest()
    assert ledger.with_root(ENTRY) == replace(ENTRY, merkle_root=hashlib.sha256(b"\1" + pair + third).hexdigest())
    assert ledger.with_root(replace(ENTRY, contributions=())).merkle_root == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("change", [{"participant_id": "alicf"}, {"digest": "ff" * 32}, {"weight": 5}, {"position": 1}])
def test_a_changed_line_changes_the_root(change: dict[str, object]) -> None:
    changed = replace(ENTRY, contributions=(replace(LINES[0], **change), *LINES[1:]))
    assert ledger.with_root(changed).merkle_root != ledger.with_root(ENTRY).merkle_root


def test_the_task_and_the_round_are_in_the_root() -> None:
    for other in (replace(ENTRY, task_id="titania"), replace(ENTRY, version=8)):
        assert ledger.with_root(other).merkle_root != ledger.with_root(ENTRY).merkle_root


def test_digest_of_an_entry_is_over_its_bytes() -> None:
    data = records.encode(ENTRY)
    assert ledger.digest_of_entry(data) == hashlib.sha256(data).hexdigest()
    assert ledger.digest_of_entry(records.encode(replace(ENTRY, create_time=1.6))) != ledger.digest_of_entry(data)


def test_five_thousand_contributions_are_proved_by_thirteen_hashes() -> None:
    lines = tuple(LedgerLine(f"p{place}", f"{place:064x}", 6, 1, place) for place in range(5000))
    entry = ledger.with_root(replace(ENTRY, contributions=lines))
    leaves = ledger.leaves(entry)
    path = merkle.inclusion_proof(leaves, 1234)
    assert len(path) == 13
    root = bytes.fromhex(entry.merkle_root)
    assert merkle.verify_inclusion(leaves[1234], 1234, 5000, path=path, root=root)
    assert not merkle.verify_inclusion(leaves[1235], 1234, 5000, path=path, root=root)
