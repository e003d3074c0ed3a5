from collections.abc import Callable

import pytest

from gateway.dialects.json_fields import Fields
from learning.refusals import InvalidTask


def fields(**values: object) -> Fields:
    return Fields({"task": values})


def test_the_first_name_in_the_first_place_is_found() -> None:
    places = Fields({"a": {"x": 1, "y": 2}, "b": {"x": 3, "z": 4}, "c": None})
    assert [places.find("x"), places.find("z"), places.find("q", "z"), places.find("q")] == [1, 4, 4, None]
    assert [places.path("x"), places.path("z"), places.path("q")] == ["a.x", "b.z", "a.q"]
    assert Fields({"": {"x": 1}}).path("x") == "x"
    assert Fields({"a": None, "b": {}}).path("x") == "a.x"


def test_null_and_the_empty_text_count_as_absent() -> None:
    places = Fields({"a": {"x": None, "y": ""}, "b": {"x": 1, "y": 2}})
    assert (places.find("x"), places.find("y")) == (1, 2)


def test_kindred_spellings_are_read() -> None:
    read = fields(text="a", number=3, half=0.5, written=" 7 ", commas="a, b,,c", yes="true", no=False)
    assert (read.text("text"), read.text("number"), read.text("half")) == ("a", "3", "0.5")
    assert (read.number("written"), read.whole("written")) == (7.0, 7)
    assert read.texts("commas") == ("a", "b", "c")
    assert fields(list=["a", 1]).texts("list") == ("a", "1")
    assert (read.flag("yes"), read.flag("no"), read.flag("gone")) == (True, False, False)
    assert (read.text("gone"), read.texts("gone"), read.number("gone"), read.whole("gone")) == ("", (), None, None)
    assert [inner.text("x") for inner in fields(list=[{"x": "a"}, {}]).objects("list")] == ["a", ""]
    assert read.objects("gone") == ()


@pytest.mark.parametrize(
    ("read", "value", "path"),
    [
        (Fields.text, [], "task.x"),
        (Fields.text, True, "task.x"),
        (Fields.text, float("inf"), "task.x"),
        (Fields.texts, 5, "task.x"),
        (Fields.texts, ["a", None], "task.x[1]"),
        (Fields.objects, {}, "task.x"),
        (Fields.objects, [{}, 1], "task.x[1]"),
        (Fields.number, "many", "task.x"),
        (Fields.number, True, "task.x"),
        (Fields.number, [], "task.x"),
        (Fields.number, float("nan"), "task.x"),
        (Fields.number, 10**400, "task.x"),
        (Fields.whole, 1.5, "task.x"),
        (Fields.whole, -1, "task.x"),
        (Fields.whole, 2**31, "task.x"),
        (Fields.flag, "maybe", "task.x"),
        (Fields.flag, [], "task.x"),
    ],
)
def test_anything_else_is_refused_with_its_path(
    read: Callable[[Fields, str], object], value: object, path: str
) -> None:
    with pytest.raises(InvalidTask) as refusal:
        read(fields(x=value), "x")
    assert refusal.value.variables["field"] == path
