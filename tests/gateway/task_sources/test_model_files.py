"""TF.js models as files: what is read of good ones, and how bad ones are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.task_sources.given_digest import GivenDigest
from gateway.task_sources.model_files import CHUNK_BYTES, ModelFiles, safe_name
from learning.refusals import DigestMismatch, InvalidModel, TooLarge
from tests.gateway.task_sources.files import KERNEL, SPECS, TOPOLOGY, WEIGHTS, document, write

LIMIT = 1 << 20


def read(folder: Path, *, limit: int = LIMIT) -> bytes:
    model = ModelFiles(folder, limit_bytes=limit)
    model.check()
    return b"".join(model.chunks())


def test_one_shard_gives_the_canonical_weights_and_the_description(tmp_path: Path) -> None:
    write(tmp_path, document(trainingConfig={"loss": "x"}), {"group1-shard1of1.bin": WEIGHTS})
    model = ModelFiles(tmp_path, limit_bytes=LIMIT)
    assert (model.weights_size, read(tmp_path)) == (len(WEIGHTS), WEIGHTS)
    described = model.description
    assert json.loads(described.topology_json) == TOPOLOGY
    assert json.loads(described.training_config_json) == {"loss": "x"}
    assert described.weight_specs == (("out/kernel", (4, 2)), ("out/bias", (2,)))


def test_tensors_may_be_cut_anywhere_between_shards_and_lie_in_folders(tmp_path: Path) -> None:
    groups = [{"paths": ["a/1.bin", "a/2.bin", "3.bin"], "weights": SPECS}]
    write(tmp_path, document(groups), {"a/1.bin": WEIGHTS[:3], "a/2.bin": WEIGHTS[3:33], "3.bin": WEIGHTS[33:]})
    assert read(tmp_path) == WEIGHTS


def test_weights_come_in_chunks_however_large_the_shard_is(tmp_path: Path) -> None:
    count = 3 * CHUNK_BYTES // 4 + 5
    data = np.arange(count, dtype="<f4").tobytes()
    groups = [{"paths": ["w.bin"], "weights": [{"name": "w", "shape": [count], "dtype": "float32"}]}]
    write(tmp_path, document(groups), {"w.bin": data})
    chunks = list(ModelFiles(tmp_path, limit_bytes=1 << 23).chunks())
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, 20]
    assert b"".join(chunks) == data


@pytest.mark.parametrize(
    ("stored", "numbers", "quantization"),
    [
        ("u1", range(8), {"dtype": "uint8", "scale": 0.1, "min": -0.3}),
        ("<u2", range(0, 64000, 8000), {"dtype": "uint16", "scale": 1e-4, "min": -3.0}),
        ("<f2", range(8), {"dtype": "float16"}),
    ],
)
def test_quantized_weights_become_what_tfjs_makes_of_them(
    tmp_path: Path, stored: str, numbers: range, quantization: dict[str, Any]
) -> None:
    groups = [{"paths": ["w"], "weights": [{**SPECS[0], "quantization": quantization}, SPECS[1]]}]
    write(tmp_path, document(groups), {"w": np.array(list(numbers), dtype=stored).tobytes() + WEIGHTS[32:]})
    scale, low = quantization.get("scale", 1.0), quantization.get("min", 0.0)
    expected = np.array([np.float32(float(number) * scale + low) for number in numbers], dtype="<f4")
    assert read(tmp_path) == expected.tobytes() + WEIGHTS[32:]


def test_slots_of_an_optimizer_are_no_weights(tmp_path: Path) -> None:
    slot = {"name": "iter", "shape": [], "dtype": "int32", "group": "optimizer"}
    write(
        tmp_path,
        document([{"paths": ["w"], "weights": [SPECS[0], slot, SPECS[1]]}]),
        {"w": KERNEL.tobytes() + b"\1\0\0\0" + WEIGHTS[32:]},
    )
    assert read(tmp_path) == WEIGHTS


def test_model_without_a_manifest_has_no_weights(tmp_path: Path) -> None:
    write(tmp_path, {"modelTopology": TOPOLOGY}, {})
    assert (ModelFiles(tmp_path, limit_bytes=LIMIT).weights_size, read(tmp_path)) == (0, b"")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"format": "graph-model", "modelTopology": {}}, "it is a GraphModel"),
        ({"modelTopology": {"node": []}}, "it is a GraphModel"),
        ({}, "modelTopology is missing"),
        (document([{"paths": ["../w"], "weights": []}]), "is no name for a shard"),
        (document([{"paths": ["/etc/passwd"], "weights": []}]), "is no name for a shard"),
        (document([{"paths": ["w", "w"], "weights": []}]), "a shard is named twice"),
        (document([{"paths": ["w"], "weights": [SPECS[0], SPECS[0]]}]), "two of its weights have the same name"),
        (document([{"paths": ["w"]}]), "weightsManifest: Object missing required field `weights`"),
        (document([{"paths": ["w"], "weights": [{"name": "a", "shape": [-1]}]}]), "the shape of weight a"),
        (document([{"paths": ["w"], "weights": [{"name": "a", "shape": [2**31, 2**31]}]}]), "the shape of weight a"),
        (document([{"paths": ["w"], "weights": [{"name": "a", "shape": [1], "dtype": "int32"}]}]), "of type int32"),
        (document([{"paths": ["w"], "weights": [{**SPECS[0], "quantization": {"dtype": "uint4"}}]}]), "as uint4"),
        (document([{"paths": [f"w{n}" for n in range(5000)], "weights": []}]), "more than 4096 shards"),
        (document([{"paths": [], "weights": [{"name": f"{n}", "shape": [1]} for n in range(5000)]}]), "4096 tensors"),
    ],
)
def test_bad_document_is_refused_with_its_reason(tmp_path: Path, model: dict[str, Any], sentence: str) -> None:
    write(tmp_path, model, {})
    with pytest.raises(InvalidModel, match=sentence):
        ModelFiles(tmp_path, limit_bytes=LIMIT)


def test_document_that_is_no_json_or_too_deep_is_refused(tmp_path: Path) -> None:
    for text, sentence in (("{", "is not JSON"), ("[" * 200 + "]" * 200, "nested deeper"), ("[]", "is no object")):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(InvalidModel, match=sentence):
            ModelFiles(tmp_path, limit_bytes=LIMIT)


def test_more_weights_than_allowed_are_refused_before_a_shard_is_opened(tmp_path: Path) -> None:
    write(tmp_path, document(), {})
    with pytest.raises(TooLarge):
        ModelFiles(tmp_path, limit_bytes=len(WEIGHTS) - 1)


def test_missing_truncated_and_oversized_shards_are_refused(tmp_path: Path) -> None:
    write(tmp_path, document(), {})
    model = ModelFiles(tmp_path, limit_bytes=LIMIT)
    with pytest.raises(InvalidModel, match=r"its shards are missing: group1-shard1of1\.bin"):
        model.check()
    for data in (WEIGHTS[:-1], WEIGHTS + b"\0"):
        (tmp_path / "group1-shard1of1.bin").write_bytes(data)
        with pytest.raises(InvalidModel, match=f"have {len(data)} bytes, its weights have {len(WEIGHTS)}"):
            model.check()


def test_digest_is_over_all_shards(tmp_path: Path) -> None:
    write(tmp_path, document(), {"group1-shard1of1.bin": WEIGHTS})
    model = ModelFiles(tmp_path, limit_bytes=LIMIT)
    model.check(GivenDigest("sha256", hashlib.sha256(WEIGHTS).digest()))
    with pytest.raises(DigestMismatch):
        model.check(GivenDigest("sha256", bytes(32)))


@given(st.text(max_size=20))
def test_safe_names_stay_below_their_folder(name: str) -> None:
    try:
        safe = safe_name(name)
    except InvalidModel:
        return
    assert (Path("/folder") / safe).resolve().is_relative_to("/folder")
    assert not {"", ".", ".."} & set(safe.split("/"))
