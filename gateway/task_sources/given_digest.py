"""The `digest` of a task: what the weights of its model must hash to (protocol section 5.1).

    model.json with shards         all shards as they came, one behind the other in the order of the manifest
    bytes that a client encodes    the weights in them, in their order, without those of an optimizer
    a file that is converted       the weights as they are kept; the task service checks that

A model without weights has no such bytes, and matches no digest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from learning.refusals import DigestMismatch, InvalidTask

_SIZES: Final = {"sha256": 32, "sha384": 48, "sha512": 64}


@dataclass(frozen=True, slots=True)
class GivenDigest:
    """What bytes must hash to."""

    algorithm: str
    value: bytes

    def check(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Raises DigestMismatch where these are not the bytes."""
        found = hashlib.new(self.algorithm)
        for chunk in chunks:
            found.update(chunk)
        if found.digest() != self.value:
            raise DigestMismatch(received=found.hexdigest(), announced=self.value.hex())


def given_digest(document: object) -> GivenDigest | None:
    """The digest in a task document; None where it has none. Raises InvalidTask.

    Clients name algorithms as Node does ("sha256", "RSA-SHA256") and write values in base64; hexadecimal is read, too.
    """
    digest = document.get("digest") if isinstance(document, Mapping) else None
    if digest is None:
        return None
    if not isinstance(digest, Mapping):
        raise InvalidTask(field="digest", problem="is no object with algorithm and value")
    algorithm = re.sub(r"^RSA-|-", "", str(digest.get("algorithm", "")), flags=re.IGNORECASE).lower()
    if algorithm not in _SIZES:
        raise InvalidTask(field="digest.algorithm", problem=f"is none of {', '.join(_SIZES)}")
    value = _value(digest.get("value"))
    if len(value) != _SIZES[algorithm]:
        raise InvalidTask(field="digest.value", problem=f"is no {algorithm} in base64")
    return GivenDigest(algorithm, value)


def _value(text: object) -> bytes:
    if not isinstance(text, str):
        return b""
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", text) and len(text) // 2 in _SIZES.values():
        return bytes.fromhex(text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
