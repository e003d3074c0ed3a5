"""The digest of a task document, in the spellings that exist."""

from __future__ import annotations

import base64
import hashlib

import pytest

from gateway.task_sources.given_digest import GivenDigest, given_digest
from learning.refusals import InvalidTask
from learning.task import DataKind

VALUE = hashlib.sha256(b"weights").digest()


@pytest.mark.parametrize("algorithm", ["sha256", "SHA256", "sha-256", "RSA-SHA256"])
@pytest.mark.parametrize("text", [base64.b64encode(VALUE).decode(), VALUE.hex()])
def test_every_spelling_is_the_same_digest(algorithm: str, text: str) -> None:
    assert given_digest({"digest": {"algorithm": algorithm, "value": text}}) == GivenDigest("sha256", VALUE)


def test_no_digest_is_none() -> None:
    assert (given_digest({}), given_digest(DataKind.IMAGE)) == (None, None)


@pytest.mark.parametrize(
    ("digest", "field"),
    [
        ("text", "digest"),
        ({"algorithm": "md5", "value": ""}, "digest.algorithm"),
        ({"algorithm": "sha256"}, "digest.value"),
        ({"algorithm": "sha256", "value": "???"}, "digest.value"),
        ({"algorithm": "sha512", "value": VALUE.hex()}, "digest.value"),
    ],
)
def test_bad_digest_is_refused_with_its_path(digest: object, field: str) -> None:
    with pytest.raises(InvalidTask) as refusal:
        given_digest({"digest": digest})
    assert refusal.value.variables["field"] == field
