"""Merkle trees against RFC 6962's own definition, its test vectors, and lies."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.merkle import EMPTY_ROOT, inclusion_proof, leaf_hash, node_hash, root, verify_inclusion

ENTRIES = [bytes.fromhex(entry) for entry in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
SEVENTH_ROOT = "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"
trees = st.lists(st.binary(max_size=8), min_size=1, max_size=70)


def root_by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: split at the largest power of two below n."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(root_by_definition(leaves[:split]), root_by_definition(leaves[split:]))


def test_no_entries_have_the_hash_of_nothing() -> None:
    assert root([]) == EMPTY_ROOT == hashlib.sha256(b"").digest()


def test_the_root_of_seven_known_entries_is_the_published_one() -> None:
    assert root([leaf_hash(entry) for entry in ENTRIES]).hex() == SEVENTH_ROOT


@given(trees)
def test_the_root_is_that_of_the_definition(entries: list[bytes]) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    assert root(leaves) == root_by_definition(leaves)


@given(trees, st.data())
def test_every_leaf_is_proved_and_no_other_place_or_leaf_is(entries: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, whole = inclusion_proof(leaves, index), root(leaves)
    assert verify_inclusion(leaves[index], index, len(leaves), path=path, root=whole)
    assert not verify_inclusion(leaf_hash(b"another one"), index, len(leaves), path=path, root=whole)
    other = data.draw(st.integers(-1, len(leaves)))
    if other != index and leaves[other % len(leaves)] != leaves[index]:
        assert not verify_inclusion(leaves[index], other, len(leaves), path=path, root=whole)


@given(trees.filter(lambda entries: len(entries) > 1), st.data())
def test_a_path_that_was_tampered_with_proves_nothing(entries: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    index = data.draw(st.integers(0, len(leaves) - 1))
    path, whole = inclusion_proof(leaves, index), root(leaves)
    assert not verify_inclusion(leaves[index], index, len(leaves), path=path[:-1], root=whole)
    assert not verify_inclusion(leaves[index], index, len(leaves), path=[*path, whole], root=whole)
    place = data.draw(st.integers(0, len(path) - 1))
    bent = [bytes(32) if at == place else sibling for at, sibling in enumerate(path)]
    assert not verify_inclusion(leaves[index], index, len(leaves), path=bent, root=whole)


def test_the_path_of_a_place_outside_the_tree_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        inclusion_proof([leaf_hash(b"")], 1)
