"""Receipts, proofs, models and contributions as files, however they were fetched.

Receipts and proofs are read as the gateway writes them (snake_case, bytes in hex) and
as protobuf's own JSON has them (camelCase, base64, numbers as texts: `grpcurl`), alone or
inside the answer that held them. Knows forms, and checks nothing that they say.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from blobstore.records import WeightSpec
from learning.receipts import Statement


class NotReadable(Exception):
    """A file is missing, or not of the form that it should have: the text says which and why."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a participant was given."""

    statement: Statement
    signature: bytes
    key_id: str


@dataclass(frozen=True, slots=True)
class Proof:
    """The path of a leaf in the Merkle tree of a version."""

    version: int
    leaf: bytes
    index: int
    tree_size: int
    path: tuple[bytes, ...]
    root: bytes


@dataclass(frozen=True, slots=True)
class _Group:
    """Of the `weightsManifest` of a TF.js model."""

    weights: list[WeightSpec]


def read_bytes(path: Path) -> bytes:
    """Raises NotReadable."""
    try:
        return path.read_bytes()
    except OSError as fault:
        raise NotReadable(f"{path} cannot be read: {fault.strerror}.") from None


def read_receipt(path: Path) -> Receipt:
    """Raises NotReadable."""
    fields = _Fields(path, "receipt")
    statement = Statement(
        task_id=fields.text("task_id"),
        round=fields.number("round"),
        participant_id=fields.text("participant_id"),
        digest=fields.octets("sha256", 32).hex(),
        weight=fields.number("weight"),
        position=fields.number("position"),
    )
    return Receipt(statement, fields.octets("signature", 64), fields.text("key_id"))


def read_proof(path: Path) -> Proof:
    """Raises NotReadable."""
    fields = _Fields(path, "proof")
    return Proof(
        version=fields.number("version"),
        leaf=fields.octets("leaf", 32),
        index=fields.number("index"),
        tree_size=fields.number("tree_size"),
        path=fields.many_octets("path", 32),
        root=fields.octets("root", 32),
    )


def read_weight_specs(path: Path) -> list[WeightSpec]:
    """The tensors of a model, in the order in which weights travel: of a TF.js `model.json`, or of a stored model.

    Raises NotReadable.
    """
    document = _json(path)
    try:
        if "weight_specs" in document:
            specs = msgspec.convert(document["weight_specs"], list[WeightSpec])
        else:
            groups = msgspec.convert(document.get("weightsManifest", []), list[_Group])
            specs = [spec for group in groups for spec in group.weights]
    except msgspec.ValidationError:
        specs = []
    if not specs or any(size < 0 for spec in specs for size in spec.shape):
        raise NotReadable(f"{path} is no model.json: it lists no weights.")
    return specs


def contribution_file(folder: Path, digest: str) -> Path:
    """Where a contribution lies: it is named by the SHA-256 of its weights. Raises NotReadable."""
    for path in (folder / f"{digest}.bin", folder / digest):
        if path.is_file():
            return path
    raise NotReadable(f"{folder} holds no {digest}.bin.")


def _json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(read_bytes(path), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotReadable(f"{path} is no JSON object.") from None


class _Fields:
    """The fields of a document, in either form. Every method raises NotReadable."""

    def __init__(self, path: Path, kind: str) -> None:
        document = _json(path)
        inner = document.get(kind, document)
        if not isinstance(inner, Mapping):
            raise NotReadable(f"{path} is no {kind}.")
        self._where = f"{path} is no {kind}"
        self._fields = {re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), key): inner[key] for key in inner}

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str):
            raise NotReadable(f"{self._where}: {name} is missing.")
        return value

    def number(self, name: str) -> int:
        value = self._fields.get(name, 0)  # protobuf's JSON leaves zeros out
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value):
            value = int(value)
        if type(value) is not int or not 0 <= value < 2**64:
            raise NotReadable(f"{self._where}: {name} is no number.")
        return value

    def octets(self, name: str, size: int) -> bytes:
        return self._octets(name, self._fields.get(name), size)

    def many_octets(self, name: str, size: int) -> tuple[bytes, ...]:
        values = self._fields.get(name, [])
        if not isinstance(values, list):
            raise NotReadable(f"{self._where}: {name} is no list.")
        return tuple(self._octets(name, value, size) for value in values)

    def _octets(self, name: str, value: object, size: int) -> bytes:
        if isinstance(value, str):
            try:
                found = bytes.fromhex(value) if len(value) == 2 * size else base64.b64decode(value, validate=True)
            except (ValueError, binascii.Error):
                found = b""
            if len(found) == size:
                return found
        raise NotReadable(f"{self._where}: {name} is not {size} bytes.")
