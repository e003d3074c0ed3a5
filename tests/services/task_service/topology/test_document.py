from __future__ import annotations

import json

import pytest

from learning.refusals import InvalidModel
from services.task_service.topology.document import MAX_JSON_BYTES, MAX_LEVELS, Config, parse


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def test_a_document_of_64_levels_is_read_and_one_of_65_is_refused() -> None:
    assert parse(_nested(MAX_LEVELS), "it").has("a")
    with pytest.raises(InvalidModel, match="64 levels"):
        parse(_nested(MAX_LEVELS + 1), "it")


def test_a_bottomless_document_is_refused_without_falling() -> None:
    with pytest.raises(InvalidModel):
        parse(_nested(100_000), "it")
    with pytest.raises(InvalidModel):
        parse('{"a":' + "[" * 1_000_000, "it")


def test_a_document_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidModel, match=str(MAX_JSON_BYTES)):
        parse(" " * (MAX_JSON_BYTES + 1), "it")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", '{"a": NaN}', '{"a": 1e999}'])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidModel, match="the thing"):
        parse(text, "the thing")


def test_keys_are_read_in_both_spellings_and_null_is_absent() -> None:
    config = Config({"kernelSize": 3, "data_format": "channelsFirst", "name": None, "useBias": False}, "here")
    assert config.whole("kernel_size") == 3
    assert config.choice("data_format", ("channels_last", "channels_first")) == "channels_first"
    assert config.flag("use_bias", True) is False
    assert not config.has("name")


def test_numbers_stand_for_all_entries_and_whole_floats_are_whole() -> None:
    config = Config({"size": 2.0, "sizes": [1, 3], "padding": 1, "borders": [2, [0, 1]]}, "here")
    assert config.wholes("size", 3) == (2, 2, 2)
    assert config.wholes("sizes", 2) == (1, 3)
    assert config.pairs("padding", 0) == ((1, 1), (1, 1))
    assert config.pairs("borders", 0) == ((2, 2), (0, 1))


@pytest.mark.parametrize(
    "document",
    [
        {"size": True},
        {"size": "3"},
        {"size": 2.5},
        {"size": 0},
        {"size": -1},
        {"size": 2**31},
        {"size": 10**400},
        {"size": [1]},
        {"size": {}},
        {"size": [1, None]},
    ],
)
def test_what_is_no_size_is_refused_with_its_place(document: dict[str, object]) -> None:
    config = Config(json.loads(json.dumps(document)), "layer conv (Conv2D)")
    with pytest.raises(InvalidModel, match=r"layer conv \(Conv2D\): size"):
        config.wholes("size", 2)
