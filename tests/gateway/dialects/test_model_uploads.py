import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from disco.task.v1.task_pb2 import Model
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.model_uploads import MAX_DOCUMENT_BYTES, PushedModel, parse_pushed_model, pushed_bytes
from gateway.dialects.registry import RENDERINGS
from learning.refusals import InvalidModel, InvalidWeights, MalformedMessage, TooLarge, WeightsNotFinite
from tests.gateway.dialects.models import GPT, GPT_WEIGHTS, SPECS, TFJS, TOPOLOGY, TRAINING_CONFIG, WEIGHTS

Ext = msgspec.msgpack.Ext
pack = msgspec.msgpack.encode


def artifacts(**changes: object) -> dict[str, object]:
    specs = [{"name": name, "shape": shape, "dtype": "float32"} for name, shape in SPECS]
    return {
        "modelTopology": TOPOLOGY,
        "format": "layers-model",
        "weightSpecs": specs,
        "weightData": Ext(26, WEIGHTS),
    } | changes


COMPILED = artifacts(trainingConfig=TRAINING_CONFIG)


def parsed(document: object) -> PushedModel:
    return parse_pushed_model(list(pack(document)))


def specs(*entries: tuple[str, list[int], str, str | None]) -> list[dict[str, object]]:
    return [
        {"name": name, "shape": shape, "dtype": dtype} | ({"group": group} if group else {})
        for name, shape, dtype, group in entries
    ]


@pytest.mark.parametrize(
    "value",
    [
        [1, 128, 255],
        {"type": "Buffer", "data": [1, 128, 255]},
        {"0": 1, "1": 128, "2": 255},
        base64.b64encode(b"\x01\x80\xff").decode(),
    ],
)
def test_bytes_are_read_in_every_spelling_that_json_has_for_them(value: object) -> None:
    assert pushed_bytes(value) == b"\x01\x80\xff"


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "no base64",
        "\u00e9",
        [256],
        [-1],
        [1.5],
        ["1"],
        {"0": 1, "2": 2},
        {"1": 1, "0": 2},
        {"type": "Buffer"},
        {"type": "Buffer", "data": "AQ=="},
    ],
)
def test_anything_else_is_no_bytes(value: object) -> None:
    with pytest.raises(InvalidModel):
        pushed_bytes(value)


@pytest.mark.parametrize("document", [COMPILED, [0, COMPILED]])
def test_a_tfjs_model_is_read_bare_and_with_its_kind(document: object) -> None:
    model = parsed(document)
    assert json.loads(model.topology_json) == TOPOLOGY
    assert json.loads(model.training_config_json) == TRAINING_CONFIG
    assert (model.kind, model.weight_specs, model.weights) == (Model.KIND_TFJS, SPECS, WEIGHTS)
    assert list(model.without_weights().weight_specs) == list(TFJS.weight_specs)


@pytest.mark.parametrize("dialect", ["g21", "g22", "gdv"])
def test_a_rendered_model_is_read_back(dialect: str) -> None:
    body = RENDERINGS[dialect].render_model(TFJS, WEIGHTS).body
    model = parse_pushed_model(json.loads(body) if dialect == "g21" else list(body))
    assert json.loads(model.topology_json) == TOPOLOGY
    assert (model.weight_specs, model.weights) == (SPECS, WEIGHTS)


@pytest.mark.parametrize("dialect", ["g22", "gdv"])
def test_a_rendered_gpt_is_read_back(dialect: str) -> None:
    model = parse_pushed_model(list(RENDERINGS[dialect].render_model(GPT, GPT_WEIGHTS).body))
    assert (model.kind, model.topology_json, model.training_config_json) == (Model.KIND_GPT, GPT.topology_json, b"")
    assert (model.weight_specs, bytes(model.weights)) == ((("weight_0", (2,)), ("weight_1", (1,))), GPT_WEIGHTS)


def test_a_gpt_may_come_without_configuration() -> None:
    assert parsed([1, pack([])]).topology_json == b"{}"


def test_the_slots_of_an_optimizer_are_left_out_wherever_they_stand() -> None:
    entries = specs(
        ("a/kernel", [2], "float32", None),
        ("m", [3], "float32", "optimizer"),
        ("a/bias", [1], "float32", None),
        ("iter", [], "int32", "optimizer"),
    )
    data = np.array([1, 2, 9, 9, 9, 3, 0], "<f4").tobytes()
    model = parsed(artifacts(weightSpecs=entries, weightData=Ext(26, data)))
    assert model.weight_specs == (("a/kernel", (2,)), ("a/bias", (1,)))
    assert model.weights == np.array([1, 2, 3], "<f4").tobytes()


@pytest.mark.parametrize("without", [{"weightData": None}, {"weightData": None, "weightSpecs": None}])
def test_a_model_may_come_without_weights(without: dict[str, None]) -> None:
    assert parsed(artifacts(**without)).weights == b""


def test_weight_data_may_come_as_bin() -> None:
    assert parsed(artifacts(weightData=WEIGHTS)).weights == WEIGHTS


def nested(levels: int) -> dict[str, Any]:
    topology: dict[str, Any] = {}
    for _ in range(levels - 1):
        topology = {"a": topology}
    return topology


def test_topologies_may_be_64_levels_deep() -> None:
    assert json.loads(parsed(artifacts(modelTopology=nested(63))).topology_json) == nested(63)


quantized = [{"name": "a", "shape": [8], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 1, "min": 0}}]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "msgpack|no model|artifacts"),
        ({}, "no topology"),
        ([], "no model that a Disco client writes"),
        ([2, {}], "neither a TF.js model nor"),
        ([0, {}, {}], "neither a TF.js model nor"),
        ([1], "artifacts"),
        ([0] * 4, "no model that a Disco client writes"),
        ([0, 5], "no artifacts"),
        ([1, 5, {}], "its weights: an array of bytes was expected"),
        ([1, [200, 300], {}], "its weights: the array of bytes holds something else"),
        ([1, pack([]), [1]], "configuration is no JSON object"),
        (artifacts(modelTopology=[]), "topology is no JSON object"),
        (artifacts(modelTopology={"a": Ext(5, b"1")}), "topology is no JSON object"),
        (artifacts(modelTopology=nested(65)), "nested deeper than 64 levels"),
        (artifacts(modelTopology={"a": "x" * MAX_DOCUMENT_BYTES}), "topology is larger than"),
        (artifacts(trainingConfig="adam"), "training configuration is no JSON object"),
        (artifacts(weightSpecs={"a": 1}), "weight specs cannot be read"),
        (artifacts(weightSpecs=quantized), "weight a is quantized; save the model without quantization"),
        (artifacts(weightSpecs=specs(("a", [8], "int32", None))), "weight a is of type int32; weights must be float32"),
        (artifacts(weightSpecs=specs(("a", [8], "string", "optimizer"))), "weight a is of type string"),
        (artifacts(weightSpecs=specs(("a", [-8], "float32", None))), "shape of weight a is not possible"),
        (artifacts(weightSpecs=specs(("a", [4], "float32", None), ("a", [4], "float32", None))), "the same name"),
        (artifacts(weightSpecs=specs(("a", [9], "float32", None))), "32 bytes, its weight specs announce 36"),
        (artifacts(weightSpecs=[]), "weights have 32 bytes, its weight specs announce 0"),
    ],
)
def test_a_body_that_is_no_model_is_refused_with_what_is_wrong(document: object, problem: str) -> None:
    with pytest.raises(InvalidModel, match=problem):
        parsed(document)


def test_an_empty_body_is_refused() -> None:
    with pytest.raises(InvalidModel, match="it is empty"):
        parse_pushed_model([])


VALID = [pack(COMPILED), pack([0, artifacts()]), pack([1, pack([]), {"a": 1}])]


@given(
    st.binary(max_size=100)
    | st.builds(
        lambda body, place, byte: body[: place % len(body)] + bytes([byte]) + body[place % len(body) + 1 :],
        st.sampled_from(VALID),
        st.integers(0, 1000),
        st.integers(0, 255),
    )
)
def test_whatever_is_pushed_is_a_model_or_refused_by_name(body: bytes) -> None:
    try:
        outcome: object = parse_pushed_model(list(body))
    except (InvalidModel, InvalidWeights, WeightsNotFinite, TooLarge) as refusal:
        outcome = refusal
    assert not isinstance(outcome, MalformedMessage)
    assert isinstance(outcome, PushedModel) or len(str(outcome)) < 1000
