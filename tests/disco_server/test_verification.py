"""What is true verifies, and nothing that was tampered with does; the step that fails is named."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToJson
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from blobstore import ledger, records
from blobstore.records import LedgerEntry, LedgerLine
from disco_server.command_line import app
from learning import merkle
from services.aggregator.exact_sums import PartialSum
from services.aggregator.receipt_key import ReceiptKey, new_pem
from services.aggregator.round_messages import receipt_message
from services.aggregator.sum_plan import SumPlan
from tests.services.aggregator.room import BASE, SPECS, octets, weights_of

KEY = ReceiptKey.from_pem(new_pem())
BASE_WEIGHTS = octets(BASE)
CONTRIBUTED = {"alice": (weights_of(1), 4), "bob": (weights_of(2), 2), "carol": (weights_of(1), 1)}
"""Two of them contributed the same weights."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def an_entry(**changes: Any) -> LedgerEntry:
    total = PartialSum(SumPlan.for_base(SPECS, BASE_WEIGHTS, 100))
    for weights, weight in CONTRIBUTED.values():
        total.add(weights, weight)
    lines = tuple(
        LedgerLine(who, sha256(weights), 6, weight, position)
        for position, (who, (weights, weight)) in enumerate(CONTRIBUTED.items())
    )
    entry = LedgerEntry(
        version=7,
        digest=sha256(bytes(total.mean())),
        base_digest=sha256(BASE_WEIGHTS),
        create_time=1.5,
        total_weight=7,
        weight_cap=100,
        contributions=lines,
        task_id="titanic",
        previous="ee" * 32,
    )
    return ledger.with_root(replace(entry, **changes))


@dataclass
class Files:
    """What somebody has fetched, and what `verify` says of it."""

    folder: Path

    def __post_init__(self) -> None:
        self.entry = an_entry()
        self.position = 1
        (self.folder / "contributions").mkdir()
        for weights, _ in CONTRIBUTED.values():
            (self.folder / "contributions" / f"{sha256(weights)}.bin").write_bytes(weights)
        self.write("base.bin", BASE_WEIGHTS)
        self.write("key.pem", KEY.pem.encode())
        manifest = [{"paths": ["weights.bin"], "weights": [asdict(spec) | {"dtype": "float32"} for spec in SPECS]}]
        self.write("model.json", json.dumps({"format": "layers-model", "weightsManifest": manifest}).encode())
        self.write_entry(self.entry)
        self.write("receipt.json", json.dumps(self.receipt()).encode())
        self.write("proof.json", json.dumps(self.proof()).encode())

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def write_entry(self, entry: LedgerEntry) -> None:
        self.write("entry.json", records.encode(entry))

    def receipt(self, **changes: Any) -> dict[str, Any]:
        statement = ledger.statement(self.entry, self.entry.contributions[self.position])
        return {
            "task_id": "titanic",
            "round": 6,
            "participant_id": statement.participant_id,
            "sha256": statement.digest,
            "weight": statement.weight,
            "position": statement.position,
            "signature": KEY.sign(statement).hex(),
            "key_id": KEY.key_id,
            **changes,
        }

    def proof(self, **changes: Any) -> dict[str, Any]:
        leaves = ledger.leaves(self.entry)
        return {
            "version": 7,
            "receipt": self.receipt(),
            "leaf": leaves[self.position].hex(),
            "index": self.position,
            "tree_size": len(leaves),
            "path": [step.hex() for step in merkle.inclusion_proof(leaves, self.position)],
            "root": self.entry.merkle_root,
            **changes,
        }

    def verify(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(app, ["verify", *arguments, "--json"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, json.loads(done.output)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def verify_receipt(self) -> tuple[int, dict[str, Any]]:
        options = [word for name in ("entry.json", "proof.json") for word in (f"--{name[:-5]}", self.path(name))]
        return self.verify("receipt", self.path("receipt.json"), *options, "--key", self.path("key.pem"))

    def verify_version(self) -> tuple[int, dict[str, Any]]:
        options = {"entry": "entry.json", "base": "base.bin", "model": "model.json", "contributions": "contributions"}
        return self.verify("version", *(word for name in options for word in (f"--{name}", self.path(options[name]))))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def failed(step: str, code: int, said: dict[str, Any]) -> bool:
    return (code, said["verified"], said["step"]) == (1, False, step) and bool(said["sentence"])


# Receipts


def without_bob(entry: LedgerEntry) -> LedgerEntry:
    """His contribution is lost, and the others keep their positions."""
    alice, bob, carol = entry.contributions
    return ledger.with_root(replace(entry, contributions=(alice, carol), total_weight=5, lost=(bob,)))


def test_a_receipt_of_a_lost_contribution_is_told_from_a_lie(files: Files) -> None:
    files.write_entry(without_bob(files.entry))
    arguments = ["receipt", files.path("receipt.json"), "--entry", files.path("entry.json"), "--key"]
    code, said = files.verify(*arguments, files.path("key.pem"))
    assert failed("lost", code, said)
    assert said["sentence"] == (
        "The contribution of bob to round 6 of titanic was acknowledged, and is lost: to a loss of power or a broken "
        "disk in that round. The entry of version 7 names it, and it is not counted."
    )
    files.write("receipt.json", json.dumps(files.receipt(weight=1)).encode())
    assert failed("signature", *files.verify(*arguments, files.path("key.pem")))
    files.write_entry(replace(without_bob(files.entry), lost=()))
    files.write("receipt.json", json.dumps(files.receipt()).encode())
    assert failed("contributions", *files.verify(*arguments, files.path("key.pem")))


def test_whoever_contributed_behind_a_lost_contribution_is_counted_at_the_same_position(files: Files) -> None:
    files.position = 2
    files.write("receipt.json", json.dumps(files.receipt()).encode())
    files.write("proof.json", json.dumps(files.proof()).encode())
    assert files.verify_receipt()[0] == 0
    whole, left = files.entry, without_bob(files.entry)
    files.write_entry(left)
    leaves = ledger.leaves(left)
    path = [step.hex() for step in merkle.inclusion_proof(leaves, 1)]
    proof = files.proof(index=1, tree_size=2, path=path, root=left.merkle_root)
    files.write("proof.json", json.dumps(proof).encode())
    assert files.verify_receipt()[0] == 0
    assert whole.contributions[2].position == 2


def test_a_counted_contribution_needs_a_proof(files: Files) -> None:
    arguments = ["receipt", files.path("receipt.json"), "--entry", files.path("entry.json")]
    assert failed("leaf", *files.verify(*arguments, "--key", files.path("key.pem")))


def test_a_genuine_receipt_is_counted(files: Files) -> None:
    assert files.verify_receipt() == (
        0,
        {
            "verified": True,
            "step": None,
            "sentence": "The contribution of bob to round 6 of titanic is counted in version 7, once, with weight 2.",
        },
    )


def test_people_are_told_in_one_line(files: Files) -> None:
    arguments = ["verify", "receipt", files.path("receipt.json"), "--entry", files.path("entry.json")]
    arguments += ["--proof", files.path("proof.json"), "--key", files.path("key.pem")]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.output) == (
        0,
        "Verified. The contribution of bob to round 6 of titanic is counted in version 7, once, with weight 2.\n",
    )
    files.write("receipt.json", json.dumps(files.receipt(weight=3)).encode())
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.output) == (
        1,
        "NOT verified (signature): The signature does not fit what the receipt states.\n",
    )


def test_receipts_and_proofs_are_read_as_protobuf_writes_them(files: Files) -> None:
    for position in range(3):
        files.position = position
        statement = ledger.statement(files.entry, files.entry.contributions[position])
        receipt = MessageToJson(receipt_message(statement, KEY))
        files.write("receipt.json", json.dumps({"receipt": json.loads(receipt)}).encode())
        proof = files.proof()
        camel = {
            "version": "7",
            "leaf": in_base64(proof["leaf"]),
            "treeSize": "3",
            "path": [in_base64(step) for step in proof["path"]],
            "root": in_base64(proof["root"]),
        } | ({"index": str(position)} if position else {})
        files.write("proof.json", json.dumps({"proof": camel}).encode())
        code, said = files.verify_receipt()
        assert (code, said["verified"]) == (0, True), said


def in_base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "titania"},
        {"round": 5},
        {"participant_id": "carol"},
        {"sha256": "00" * 32},
        {"weight": 3},
        {"position": 0},
        {"signature": "00" * 64},
    ],
)
def test_a_receipt_with_another_field_is_not_what_was_signed(files: Files, change: dict[str, Any]) -> None:
    files.write("receipt.json", json.dumps(files.receipt(**change)).encode())
    assert failed("signature", *files.verify_receipt())


def test_a_receipt_of_another_key_is_told_from_a_forged_one(files: Files) -> None:
    other = ReceiptKey.from_pem(new_pem())
    files.write("key.pem", other.pem.encode())
    assert failed("key", *files.verify_receipt())
    files.write("receipt.json", json.dumps(files.receipt(key_id=other.key_id)).encode())
    assert failed("signature", *files.verify_receipt())
    files.write("key.pem", b"no key")
    assert failed("key", *files.verify_receipt())


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"version": 8}, "leaf"),
        ({"leaf": "00" * 32}, "leaf"),
        ({"index": 0}, "leaf"),
        ({"tree_size": 4}, "path"),
        ({"path": []}, "path"),
        ({"path": ["00" * 32, "00" * 32]}, "path"),
        ({"root": "00" * 32}, "path"),
        ({"leaf": "00"}, "files"),
        ({"path": "00"}, "files"),
        ({"index": -1}, "files"),
    ],
)
def test_a_proof_with_another_field_proves_nothing(files: Files, change: dict[str, Any], step: str) -> None:
    files.write("proof.json", json.dumps(files.proof(**change)).encode())
    assert failed(step, *files.verify_receipt())


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"task_id": "titania"}, "entry"),
        ({"version": 8}, "entry"),
        ({"total_weight": 8}, "total_weight"),
        ({"weight_cap": 6}, "total_weight"),
        ({"merkle_root": "00" * 32}, "root"),
        ({"contributions": an_entry().contributions[:2], "total_weight": 6}, "root"),
        ({"contributions": (*an_entry().contributions, an_entry().contributions[0])}, "contributions"),
        ({"merkle_root": ""}, "root"),
    ],
)
def test_an_entry_with_another_field_counts_nothing(files: Files, change: dict[str, Any], step: str) -> None:
    files.write_entry(replace(files.entry, **change))
    assert failed(step, *files.verify_receipt())


def test_a_forged_version_with_a_root_of_its_own_has_another_line_or_another_path(files: Files) -> None:
    forged = replace(files.entry.contributions[1], weight=1)
    lines = (files.entry.contributions[0], forged, files.entry.contributions[2])
    files.write_entry(ledger.with_root(replace(files.entry, contributions=lines, total_weight=6)))
    assert failed("entry", *files.verify_receipt())
    others = (replace(files.entry.contributions[0], weight=3), *files.entry.contributions[1:])
    files.write_entry(ledger.with_root(replace(files.entry, contributions=others, total_weight=6)))
    assert failed("root", *files.verify_receipt())


def test_a_restored_version_says_that_the_contribution_is_in_no_weights(files: Files) -> None:
    files.write_entry(replace(files.entry, rule="restore", restores=3))
    code, said = files.verify_receipt()
    assert code == 0
    assert said["sentence"].endswith("is acknowledged in version 7, which restores version 3: it is in no weights.")


@given(
    index=st.integers(0, 40),
    size=st.integers(0, 40),
    path=st.lists(st.binary(min_size=32, max_size=32), max_size=8),
    leaf=st.binary(min_size=32, max_size=32),
)
def test_no_path_that_was_made_up_leads_to_a_root(index: int, size: int, path: list[bytes], leaf: bytes) -> None:
    root = merkle.root(ledger.leaves(an_entry()))
    assert not merkle.verify_inclusion(leaf, index, size, path=path, root=root)


@given(st.data(), st.integers(1, 70))
def test_a_true_path_holds_for_its_own_place_only(data: st.DataObject, size: int) -> None:
    leaves = [merkle.leaf_hash(b"%d" % place) for place in range(size)]
    root, index = merkle.root(leaves), data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_proof(leaves, index)
    assert merkle.verify_inclusion(leaves[index], index, size, path=path, root=root)
    other = data.draw(st.integers(0, size + 3))
    assert merkle.verify_inclusion(leaves[index], other, size, path=path, root=root) == (other == index)
    for place, step in enumerate(path):
        flipped = [*path[:place], bytes([step[0] ^ 1]) + step[1:], *path[place + 1 :]]
        assert not merkle.verify_inclusion(leaves[index], index, size, path=flipped, root=root)
    for broken in (path[1:], path[:-1], [*path, root]):
        assert broken == path or not merkle.verify_inclusion(leaves[index], index, size, path=broken, root=root)


# Versions


def test_a_version_is_computed_again_to_the_bit(files: Files) -> None:
    code, said = files.verify_version()
    assert (code, said["sentence"]) == (0, "Version 7 of titanic is the exact mean of its 3 contributions, to the bit.")
    stored = records.encode({"kind": "tfjs", "topology_json": "{}", "weight_specs": SPECS})
    files.write("model.json", stored)
    assert files.verify_version() == (code, said)


def test_each_thing_that_is_not_as_stated_is_named(files: Files) -> None:
    first = files.folder / "contributions" / f"{sha256(weights_of(1))}.bin"
    for name, data, step in (
        ("base.bin", weights_of(9), "base"),
        ("base.bin", b"", "base"),
        ("model.json", b"{}", "files"),
        ("model.json", b'{"weightsManifest": [{}]}', "files"),
        ("model.json", b'{"weight_specs": [{"name": "all", "shape": [5]}]}', "base"),
        ("entry.json", b"{}", "entry"),
    ):
        before = (files.folder / name).read_bytes()
        files.write(name, data)
        assert failed(step, *files.verify_version()), name
        files.write(name, before)
    weights = first.read_bytes()
    first.write_bytes(weights_of(3))
    assert failed("contributions", *files.verify_version())
    first.unlink()
    assert failed("contributions", *files.verify_version())
    first.with_suffix("").write_bytes(weights)  # without .bin
    assert files.verify_version()[0] == 0


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"digest": "00" * 32}, "result"),
        ({"base_digest": "00" * 32}, "base"),
        ({"total_weight": 6}, "total_weight"),
        ({"contributions": (), "total_weight": 0}, "contributions"),
        ({"weight_cap": 2**41, "total_weight": 8}, "total_weight"),
        ({"rule": "fedadam"}, "rule"),
        ({"rule": "initial"}, "rule"),
    ],
)
def test_an_entry_that_states_something_else_is_named(files: Files, change: dict[str, Any], step: str) -> None:
    files.write_entry(ledger.with_root(replace(files.entry, **change)))
    assert failed(step, *files.verify_version())


def test_a_contribution_that_could_not_have_been_counted_is_named(files: Files) -> None:
    broken = np.array(BASE, "<f4")
    broken[0] = np.nan
    line = replace(files.entry.contributions[0], digest=sha256(broken.tobytes()))
    files.write_entry(ledger.with_root(replace(files.entry, contributions=(line, *files.entry.contributions[1:]))))
    (files.folder / "contributions" / f"{line.digest}.bin").write_bytes(broken.tobytes())
    assert failed("contributions", *files.verify_version())


def test_a_restored_version_is_the_one_it_restores(files: Files) -> None:
    files.write_entry(replace(files.entry, rule="restore", restores=3, digest=sha256(BASE_WEIGHTS)))
    assert files.verify_version()[1]["sentence"] == "Version 7 of titanic has the weights of version 3 again."
    files.write("base.bin", weights_of(9))
    assert failed("base", *files.verify_version())


# Chains


def a_chain(length: int = 4) -> list[bytes]:
    entries = [records.encode({"version": 0, "digest": "00" * 32, "base_digest": "", "create_time": 1.0})]
    for number in range(1, length):
        previous = ledger.digest_of_entry(entries[-1])
        before = records.decode_entry(entries[-1], name="")
        entry = an_entry(version=number, digest=f"{number:02x}" * 32, base_digest=before.digest, previous=previous)
        entries.append(records.encode(entry))
    return entries


def verify_chain(files: Files, entries: list[bytes]) -> tuple[int, dict[str, Any]]:
    folder = files.folder / "chain"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for index, data in enumerate(entries):
        (folder / f"{len(entries) - index}.json").write_bytes(data)
    return files.verify("chain", str(folder))


def test_a_whole_chain_holds_in_any_order(files: Files) -> None:
    code, said = verify_chain(files, a_chain())
    assert (code, said["sentence"]) == (
        0,
        "The entries of versions 0 to 3 are a chain, each with the root of its contributions.",
    )
    assert verify_chain(files, a_chain()[1:])[0] == 0


def test_a_chain_with_a_gap_a_change_or_nothing_in_it_does_not(files: Files) -> None:
    entries = a_chain()
    assert failed("chain", *verify_chain(files, []))
    assert failed("chain", *verify_chain(files, [entries[0], entries[2]]))
    assert failed("chain", *verify_chain(files, [entries[1], entries[1]]))
    changed = entries[1].replace(b'"create_time":1.5', b'"create_time":1.6')
    assert changed != entries[1]
    assert failed("chain", *verify_chain(files, [entries[0], changed, *entries[2:]]))
    assert failed("entry", *verify_chain(files, [b"[]"]))


def test_entries_from_before_the_chain_are_told(files: Files) -> None:
    entries = a_chain(3)
    entries[2] = records.encode(replace(records.decode_entry(entries[2], name=""), previous=""))
    code, said = verify_chain(files, entries)
    assert code == 0
    assert said["sentence"].endswith("1 of them were written before entries were chained.")


def test_files_that_are_missing_are_named(files: Files) -> None:
    for name in ("receipt.json", "proof.json", "entry.json", "key.pem"):
        before = (files.folder / name).read_bytes()
        (files.folder / name).unlink()
        code, said = files.verify_receipt()
        assert failed("files", code, said)
        assert name in said["sentence"]
        files.write(name, before)
    files.write("receipt.json", b"\xff\xfe")
    assert failed("files", *files.verify_receipt())
