"""Merkle trees over the contributions of a version (RFC 6962, section 2.1): one digest for all, a short proof for each.

Knows hashes, and nothing of what is hashed. A leaf is what `leaf_hash` makes of
an entry; a node hashes its two children; a tree of n leaves splits at the
largest power of two below n. Hashes are 32 bytes of SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

EMPTY_ROOT = hashlib.sha256().digest()
"""Of no entries at all."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry; the leading byte keeps leaves and nodes apart."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, in their order."""
    return _roots_and_path(leaves, None)[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of a leaf: the sibling hashes from the leaf up to the root. At most 64 of 2^64 leaves."""
    assert 0 <= index < len(leaves), "only a leaf of the tree has a path"
    return _roots_and_path(leaves, index)[1]


def verify_inclusion(leaf: bytes, index: int, size: int, *, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf stands at `index` of `size` in the tree that has this root (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, hashed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            hashed = node_hash(sibling, hashed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            hashed = node_hash(hashed, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and hashed == root


def _roots_and_path(leaves: Sequence[bytes], index: int | None) -> tuple[bytes, list[bytes]]:
    """The root, and the path of one leaf: level by level, where a node without a sibling rises as it is."""
    if not leaves:
        return EMPTY_ROOT, []
    level = list(leaves)
    path: list[bytes] = []
    while len(level) > 1:
        if index is not None:
            if index ^ 1 < len(level):
                path.append(level[index ^ 1])
            index >>= 1
        pairs = [node_hash(level[left], level[left + 1]) for left in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0], path
