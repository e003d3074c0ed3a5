"""A version with differential privacy is computed again by who has the secret; others are not told of a mismatch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blobstore import ledger, names, records
from disco_server.command_line import app
from learning.aggregation import Aggregation
from learning.policy import Policy
from learning.privacy import CentralPrivacy
from roundstore.redis_settings import connect
from roundstore.redis_store import RedisRoundStore
from tests.services.aggregator.room import BASE, SPECS, TASK, octets, opened, weights_of

PRIVACY = CentralPrivacy(clipping_norm=0.3, noise_multiplier=2.0, delta=1e-5, epsilon_budget=4.0)
PAIRS = Policy(min_participants=2, quorum_share=None, quorum_count=2, deadline_s=600, staleness_weights=(3, 1))


async def fetched(redis_url: str, folder: Path) -> Path:
    """Two rounds of a real aggregator, one with a late contribution, and what somebody keeps of them."""
    kept = folder / "kept"
    (kept / "contributions").mkdir(parents=True)
    contributed = [weights_of(seed) for seed in range(4)]
    for weights in contributed:
        (kept / "contributions" / f"{hashlib.sha256(weights).hexdigest()}.bin").write_bytes(weights)
    async with connect(redis_url) as redis:
        room_of = opened(RedisRoundStore(redis), folder / "data", PAIRS, aggregation=Aggregation(privacy=PRIVACY))
        async with room_of as room, room.member() as member:
            await member.submit("a", contributed[0])
            await member.submit("b", contributed[1])
            await member.reaches(1)
            await member.submit("a", contributed[2], round=1)
            await member.submit("c", contributed[3], round=0)
            await member.reaches(2)
            for number in (1, 2):
                (kept / f"entry-{number}.json").write_bytes(await records.read_entry_bytes(room.blobs, TASK, number))
                (kept / f"version-{number}.bin").write_bytes((await member.version(number))[1])
            (kept / "noise.hex").write_bytes(await room.blobs.read(names.noise_secret()))
    (kept / "version-0.bin").write_bytes(octets(BASE))
    manifest = [{"paths": ["weights.bin"], "weights": [asdict(spec) | {"dtype": "float32"} for spec in SPECS]}]
    (kept / "model.json").write_text(json.dumps({"format": "layers-model", "weightsManifest": manifest}))
    return kept


def verify(kept: Path, number: int, *more: str) -> tuple[int, dict[str, Any]]:
    options = {
        "--entry": f"entry-{number}.json",
        "--base": f"version-{number - 1}.bin",
        "--model": "model.json",
        "--contributions": "contributions",
    }
    words = [word for name, file in options.items() for word in (name, str(kept / file))]
    result = CliRunner().invoke(app, ["verify", "version", *words, *more, "--json"])
    return result.exit_code, json.loads(result.stdout)


async def test_with_the_secret_it_is_computed_again_to_the_bit(redis_url: str, tmp_path: Path) -> None:
    kept = await fetched(redis_url, tmp_path)
    secret = ("--noise-secret", str(kept / "noise.hex"))
    code, said = verify(kept, 1, *secret)
    assert (code, said["sentence"]) == (
        0,
        "Version 1 of titanic is the mean of its 2 contributions, each clipped to 0.3, with the noise of this secret, "
        "to the bit.",
    )
    # One contribution of version 2 is late: it differs from version 0.
    code, said = verify(kept, 2, *secret)
    assert (code, said["step"]) == (1, "contributions")
    assert said["sentence"].endswith("put its weights beside the contributions, as version-0.bin.")
    (kept / "contributions" / "version-0.bin").write_bytes(octets(BASE))
    assert verify(kept, 2, *secret)[0] == 0
    (kept / "contributions" / "version-0.bin").write_bytes(octets(BASE)[:-4])
    assert verify(kept, 2, *secret)[1]["step"] == "contributions"


async def test_without_it_the_sentence_says_what_is_missing(redis_url: str, tmp_path: Path) -> None:
    kept = await fetched(redis_url, tmp_path)
    code, said = verify(kept, 1)
    assert (code, said["step"]) == (1, "noise")
    assert "only who has the noise secret of the installation can compute it again" in said["sentence"]
    (kept / "noise.hex").write_text("no secret")
    assert verify(kept, 1, "--noise-secret", str(kept / "noise.hex"))[1]["step"] == "noise"
    (kept / "noise.hex").write_text("00" * 32)
    assert verify(kept, 1, "--noise-secret", str(kept / "noise.hex"))[1]["step"] == "result"


@pytest.mark.parametrize(
    ("change", "step"), [({"noise_multiplier": 1.9}, "result"), ({"clipping_norm": 0.0}, "noise"), ({}, "")]
)
async def test_an_entry_that_states_other_noise_is_named(
    redis_url: str, tmp_path: Path, change: dict[str, Any], step: str
) -> None:
    kept = await fetched(redis_url, tmp_path)
    entry = records.decode_entry((kept / "entry-1.json").read_bytes(), name="")
    assert entry.privacy is not None
    forged = ledger.with_root(replace(entry, privacy=replace(entry.privacy, **change)))
    (kept / "entry-1.json").write_bytes(records.encode(forged))
    assert (verify(kept, 1, "--noise-secret", str(kept / "noise.hex"))[1]["step"] or "") == step
