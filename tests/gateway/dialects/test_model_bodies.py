import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from disco.task.v1.task_pb2 import Model

from gateway.dialects import model_bodies
from gateway.dialects.registry import RENDERINGS
from learning.refusals import InvalidModel
from tests.gateway.dialects import models
from tests.gateway.dialects.models import GPT, GPT_WEIGHTS, TFJS, WEIGHTS
from tests.gateway.dialects.tasks import TABULAR

ARTIFACTS = {
    "modelTopology": models.TOPOLOGY,
    "format": "layers-model",
    "generatedBy": "Disco",
    "convertedBy": None,
    "trainingConfig": models.TRAINING_CONFIG,
    "weightSpecs": [
        {"name": "dense_1/kernel", "shape": [3, 2], "dtype": "float32"},
        {"name": "dense_1/bias", "shape": [2], "dtype": "float32"},
    ],
    "weightData": msgspec.msgpack.Ext(0x1A, WEIGHTS),
}


def test_g21_gets_the_artifacts_as_a_json_array_of_bytes() -> None:
    body = RENDERINGS["g21"].render_model(TFJS, WEIGHTS)
    assert body.content_type == "application/json"
    assert bytes(json.loads(body.body)) == msgspec.msgpack.encode(ARTIFACTS)


def test_a_model_without_training_configuration_suits_g21_and_real_tfjs_alone() -> None:
    bare = Model()
    bare.CopyFrom(TFJS)
    bare.ClearField("training_config_json")
    artifacts = bytes(json.loads(RENDERINGS["g21"].render_model(bare, WEIGHTS).body))
    # Six keys, as the upstream server sends.
    assert artifacts[0] == 0x86
    assert "trainingConfig" not in json.loads(RENDERINGS["tfjs"].render_model(bare, WEIGHTS).body)
    for dialect in ("g22", "g30", "gdv"):
        with pytest.raises(InvalidModel, match="no training configuration"):
            RENDERINGS[dialect].render_model(bare, WEIGHTS)


@pytest.mark.parametrize("dialect", ["g22", "g30", "gdv", "superset"])
def test_later_generations_get_the_kind_and_the_artifacts(dialect: str) -> None:
    body = RENDERINGS[dialect].render_model(TFJS, memoryview(WEIGHTS))
    assert body.content_type == "application/octet-stream"
    assert body.body == msgspec.msgpack.encode([0, ARTIFACTS])
    assert body.body.startswith(b"\x92\x00\x87")
    # An ArrayBuffer of 32 bytes: extension 0x1a.
    assert b"\xaaweightData\xc7\x20\x1a" + WEIGHTS in body.body


def test_gpt_bodies_carry_the_weights_as_each_generation_reads_them() -> None:
    config = {"modelType": "gpt-nano", "vocabSize": 50258}
    compact = bytes.fromhex(
        "92 82a5736861706591 02 a464617461 92 ca3fc00000 ca00000000 82a5736861706591 01 a464617461 91 ca40000000"
    )
    arrays = bytes.fromhex(
        "92 82a5736861706591 02 a464617461 d7170000c03f00000000 82a5736861706591 01 a464617461 d61700000040"
    )
    for dialect in ("g22", "g30"):
        body = RENDERINGS[dialect].render_model(GPT, GPT_WEIGHTS)
        assert body.body == msgspec.msgpack.encode([1, list(compact), config])
    assert RENDERINGS["gdv"].render_model(GPT, GPT_WEIGHTS).body == msgspec.msgpack.encode([1, arrays, config])


@pytest.mark.parametrize("dialect", ["g21", "tfjs"])
def test_who_runs_layers_alone_gets_no_gpt(dialect: str) -> None:
    with pytest.raises(InvalidModel, match=r"no TF\.js LayersModel"):
        RENDERINGS[dialect].render_model(GPT, GPT_WEIGHTS)


def test_real_tfjs_gets_a_manifest_that_points_at_the_canonical_weights() -> None:
    body = RENDERINGS["tfjs"].render_model(TFJS, WEIGHTS)
    assert body.content_type == "application/json"
    assert json.loads(body.body) == {
        "modelTopology": models.TOPOLOGY,
        "format": "layers-model",
        "generatedBy": "Disco",
        "convertedBy": None,
        "trainingConfig": models.TRAINING_CONFIG,
        "weightsManifest": [{"paths": ["weights.bin"], "weights": ARTIFACTS["weightSpecs"]}],
    }


@pytest.mark.parametrize("topology", [b"", b"[]", b"{", b'{"a": 1e999999, "b":'])
def test_a_topology_that_is_no_json_object_is_refused(topology: bytes) -> None:
    with pytest.raises(InvalidModel, match="topology is no JSON object"):
        RENDERINGS["g21"].render_model(Model(kind=Model.KIND_TFJS, topology_json=topology), b"")


def test_an_integer_that_msgpack_cannot_hold_is_refused() -> None:
    huge = Model(kind=Model.KIND_TFJS, topology_json=b'{"seed": 123456789012345678901234567890}')
    with pytest.raises(InvalidModel, match="more than 64 bits"):
        RENDERINGS["g21"].render_model(huge, b"")


def test_bytes_are_written_as_json_numbers_without_a_space() -> None:
    assert model_bodies.json_byte_array(b"") == b"[]"
    assert model_bodies.json_byte_array(bytes([0, 7, 10, 99, 100, 255])) == b"[0,7,10,99,100,255]"
    document = np.random.default_rng(1).integers(0, 256, 100_000, np.uint8).tobytes()
    assert model_bodies.json_byte_array(document) == json.dumps(list(document), separators=(",", ":")).encode()


def test_what_the_task_says_of_compiling_becomes_a_training_configuration() -> None:
    assert json.loads(model_bodies.training_config_of(TABULAR)) == {
        "loss": "binaryCrossentropy",
        "metrics": ["accuracy", "mse"],
        "optimizer_config": {"class_name": "RMSProp", "config": {"learning_rate": 0.05}},
    }
    plain = replace(TABULAR, training=replace(TABULAR.training, optimizer="adam", learning_rate=None))
    assert json.loads(model_bodies.training_config_of(plain))["optimizer_config"] == {
        "class_name": "Adam",
        "config": {},
    }


@pytest.mark.parametrize("dialect", ["g22", "g30", "gdv", "superset"])
@pytest.mark.parametrize("weights", [1, 2, 4, 63, 64, 16383, 16384])
def test_what_comes_before_the_weights_is_known_without_them(dialect: str, weights: int) -> None:
    # Up to 16 bytes, up to 255, up to 65535, more: msgpack writes each of these lengths in another way.
    model = Model()
    model.CopyFrom(TFJS)
    octets = bytes(4 * weights)
    head = RENDERINGS[dialect].render_head(model, len(octets))
    assert head is not None
    assert head.weights_follow
    artifacts = {**ARTIFACTS, "weightData": msgspec.msgpack.Ext(0x1A, octets)}
    assert head.octets + octets == msgspec.msgpack.encode([0, artifacts])
    assert RENDERINGS[dialect].render_model(model, octets).body == head.octets + octets


def test_weights_written_as_numbers_have_no_head() -> None:
    assert RENDERINGS["g21"].render_head(TFJS, len(WEIGHTS)) is None
    for dialect in ("g22", "g30", "gdv"):
        assert RENDERINGS[dialect].render_head(GPT, len(GPT_WEIGHTS)) is None
