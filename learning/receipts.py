"""What a receipt states, as bytes: what the installation signs, and what a version's Merkle tree has for a leaf.

The same bytes serve both, so a signed receipt and the tree of the version that counts
the contribution say the same thing or one of them is wrong. They are

    16 bytes   "disco receipt v1"             32 bytes   SHA-256 of the contributed weights
     2 bytes   length of the task id           8 bytes   weight with which it is counted
     …         task id, ASCII                  8 bytes   position among those of its round
     8 bytes   round in which it is counted
     2 bytes   length of the participant id
     …         participant id, ASCII

with all numbers unsigned and big-endian. The first words keep these bytes apart from
anything else that the same key may ever sign. Knows no key and no store.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

DOMAIN = b"disco receipt v1"
KEY_ID_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Statement:
    """A contribution as it is counted. `digest` is the SHA-256 of its weights, in lower-case hex."""

    task_id: str
    round: int
    participant_id: str
    digest: str
    weight: int
    position: int

    def encode(self) -> bytes:
        """The bytes that are signed, and the entry of the Merkle tree. ValueError for what no receipt could state."""
        try:
            fixed = bytes.fromhex(self.digest), struct.pack(">QQ", self.weight, self.position)
            parts = [DOMAIN, _text(self.task_id), struct.pack(">Q", self.round), _text(self.participant_id), *fixed]
        except struct.error as beyond:
            raise ValueError("a number is negative or has more than 64 bits") from beyond
        if len(fixed[0]) != hashlib.sha256().digest_size:
            raise ValueError("the digest is no SHA-256")
        return b"".join(parts)


def key_id(public_key: bytes) -> str:
    """What a public key (32 bytes) is called: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:KEY_ID_CHARACTERS]


def _text(text: str) -> bytes:
    encoded = text.encode("ascii")
    return struct.pack(">H", len(encoded)) + encoded
