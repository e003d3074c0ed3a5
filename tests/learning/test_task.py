"""Which tasks can be, and that the others cannot be constructed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from learning.aggregation import Aggregation, AggregationRule
from learning.ids import TaskId
from learning.policy import Policy
from learning.refusals import InvalidId, InvalidTask
from learning.task import (
    MAX_ITEMS,
    MAX_TEXT,
    PINNED_DIALECTS,
    DataExample,
    DataKind,
    DisplayInformation,
    Scheme,
    Task,
    TrainingInformation,
)

DISPLAY = DisplayInformation(title="Titanic")
TRAINING = TrainingInformation(epochs=10, batch_size=32)


def a_task(data_kind: DataKind = DataKind.TEXT, **training: Any) -> Task:
    return Task(
        task_id=TaskId("titanic"),
        scheme=Scheme.FEDERATED,
        data_kind=data_kind,
        display=DISPLAY,
        training=replace(TRAINING, **training),
    )


def refused_field(refusal: pytest.ExceptionInfo[InvalidTask]) -> str:
    assert refusal.value.variables["problem"]
    return refusal.value.variables["field"]


# Display


@pytest.mark.parametrize("title", ["", " ", "\n\t"])
def test_a_task_without_a_title_is_refused(title: str) -> None:
    with pytest.raises(InvalidTask) as refusal:
        DisplayInformation(title=title)
    assert refused_field(refusal) == "display.title"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"overview": "x" * (MAX_TEXT + 1)}, "display.overview"),
        ({"headers": ("fine", "x" * (MAX_TEXT + 1))}, "display.headers"),
        ({"headers": ("x",) * (MAX_ITEMS + 1)}, "display.headers"),
        ({"data_example": (DataExample("a", "b"),) * (MAX_ITEMS + 1)}, "display.data_example"),
        ({"data_example": (DataExample("a", "x" * (MAX_TEXT + 1)),)}, "display.data_example.column_value"),
        ({"data_example": (DataExample("x" * (MAX_TEXT + 1), "b"),)}, "display.data_example.column_name"),
    ],
)
def test_texts_have_a_bound(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidTask) as refusal:
        replace(DISPLAY, **changes)
    assert refused_field(refusal) == field


def test_texts_may_reach_their_bound() -> None:
    full = replace(DISPLAY, overview="x" * MAX_TEXT, headers=("x",) * MAX_ITEMS)
    assert len(full.overview) == MAX_TEXT


URL_FIELDS = ["data_example_image", "sample_dataset_link"]


@pytest.mark.parametrize("field", URL_FIELDS)
@pytest.mark.parametrize("url", ["", "http://example.org", "https://example.org/a/b?c=d#e", "https://[::1]:8080/"])
def test_an_absolute_url_is_taken(field: str, url: str) -> None:
    assert getattr(replace(DISPLAY, **{field: url}), field) == url


@pytest.mark.parametrize(
    "url",
    ["example.org", "/a", "ftp://a/b", "javascript:alert(1)", "https://", "https:///a", "http://a b", "http://a\n"],
)
def test_any_other_url_is_refused(url: str) -> None:
    for field in URL_FIELDS:
        with pytest.raises(InvalidTask) as refusal:
            replace(DISPLAY, **{field: url})
        assert refused_field(refusal) == f"display.{field}"
    with pytest.raises(InvalidTask) as refusal:
        replace(TRAINING, model_url=url)
    assert refused_field(refusal) == "training.model_url"


# Training

POSSIBLE: list[dict[str, Any]] = [
    {"epochs": 2**31 - 1},
    {"epochs": 12, "round_duration_epochs": 4},
    {"validation_split": 0.0},
    {"validation_split": 0.999},
    {"tensor_backend": "gpt"},
    {"learning_rate": 5e-324, "clipping_radius": 1e300, "max_share_value": 1.0},
    {"noise_scale": 0.0},
    {"tau_percentile": 0.5},
    {"model_url": "https://example.org/model.json"},
]

IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 0}, "training.epochs"),
    ({"epochs": 2**31}, "training.epochs"),
    ({"batch_size": 0}, "training.batch_size"),
    ({"batch_size": -1}, "training.batch_size"),
    ({"round_duration_batches": 0}, "training.round_duration_batches"),
    ({"round_duration_epochs": 0}, "training.round_duration_epochs"),
    ({"round_duration_epochs": 3}, "training.round_duration_epochs"),
    ({"round_duration_epochs": 20}, "training.round_duration_epochs"),
    ({"validation_split": 1.0}, "training.validation_split"),
    ({"validation_split": -0.1}, "training.validation_split"),
    ({"validation_split": math.nan}, "training.validation_split"),
    ({"tensor_backend": "torch"}, "training.tensor_backend"),
    ({"learning_rate": 0.0}, "training.learning_rate"),
    ({"learning_rate": math.nan}, "training.learning_rate"),
    ({"learning_rate": math.inf}, "training.learning_rate"),
    ({"clipping_radius": -1.0}, "training.clipping_radius"),
    ({"max_share_value": 0.0}, "training.max_share_value"),
    ({"noise_scale": -0.1}, "training.noise_scale"),
    ({"noise_scale": math.inf}, "training.noise_scale"),
    ({"noise_scale": math.nan}, "training.noise_scale"),
    ({"tau_percentile": 0.0}, "training.tau_percentile"),
    ({"tau_percentile": 1.0}, "training.tau_percentile"),
    ({"labels": ("x",) * (MAX_ITEMS + 1)}, "training.labels"),
    ({"tokenizer": "x" * (MAX_TEXT + 1)}, "training.tokenizer"),
]


@pytest.mark.parametrize("settings", POSSIBLE)
def test_possible_training_keeps_its_settings(settings: dict[str, Any]) -> None:
    training = replace(TRAINING, **settings)
    assert {name: getattr(training, name) for name in settings} == settings


@pytest.mark.parametrize(("settings", "field"), IMPOSSIBLE)
def test_impossible_training_cannot_be_constructed(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidTask) as refusal:
        replace(TRAINING, **settings)
    assert refused_field(refusal) == field


# Tasks


@pytest.mark.parametrize(
    ("data_kind", "training", "missing"),
    [
        (DataKind.TABULAR, {}, "input_columns"),
        (DataKind.TABULAR, {"input_columns": ("Age",)}, "output_columns"),
        (DataKind.TABULAR, {"output_columns": ("Survived",)}, "input_columns"),
        (DataKind.IMAGE, {}, "image_height"),
        (DataKind.IMAGE, {"image_height": 32}, "image_width"),
        (DataKind.IMAGE, {"image_width": 32}, "image_height"),
        (DataKind.IMAGE, {"image_width": 32, "image_height": -1}, "image_height"),
    ],
)
def test_each_kind_of_data_needs_its_settings(data_kind: DataKind, training: dict[str, Any], missing: str) -> None:
    with pytest.raises(InvalidTask) as refusal:
        a_task(data_kind, **training)
    assert refused_field(refusal) == f"training.{missing}"


@pytest.mark.parametrize(
    ("data_kind", "training"),
    [
        (DataKind.TEXT, {}),
        (DataKind.TABULAR, {"input_columns": ("Age",), "output_columns": ("Survived",)}),
        (DataKind.IMAGE, {"image_height": 1, "image_width": 1}),
    ],
)
def test_a_whole_task_has_the_usual_policy(data_kind: DataKind, training: dict[str, Any]) -> None:
    assert a_task(data_kind, **training).policy == Policy()


def test_a_task_without_an_id_is_refused() -> None:
    with pytest.raises(InvalidId):
        replace(a_task(), task_id=TaskId("../titanic"))


def test_a_model_without_a_name_is_called_after_its_task() -> None:
    assert a_task().model_id == "titanic-model"
    assert a_task(model_id="mine").model_id == "mine"


def test_the_mean_is_what_holds_where_a_task_says_nothing() -> None:
    assert a_task().aggregation_in_force == Aggregation(AggregationRule.MEAN)


@pytest.mark.parametrize("scheme", [Scheme.DECENTRALIZED, Scheme.LOCAL])
def test_a_rule_is_refused_where_the_server_does_not_aggregate(scheme: Scheme) -> None:
    with pytest.raises(InvalidTask) as refusal:
        replace(a_task(), scheme=scheme, aggregation=Aggregation(AggregationRule.FEDADAM))
    assert refused_field(refusal) == "aggregation.rule"


@pytest.mark.parametrize("quantile", [None, 0.8])
def test_a_task_that_asks_for_robustness_clips_unless_it_says_otherwise(quantile: float | None) -> None:
    asking = a_task(byzantine_robust=True, tau_percentile=quantile)
    assert asking.aggregation_in_force == Aggregation(AggregationRule.CENTERED_CLIPPING, radius_quantile=quantile)
    assert replace(asking, aggregation=Aggregation()).aggregation_in_force == Aggregation(AggregationRule.MEAN)
    assert replace(asking, scheme=Scheme.DECENTRALIZED).aggregation_in_force == Aggregation(AggregationRule.MEAN)


def test_task_is_pinned_to_a_dialect_that_is_spoken_or_to_none() -> None:
    for dialect in ("", *PINNED_DIALECTS):
        assert replace(a_task(), pinned_dialect=dialect).pinned_dialect == dialect
    for other in ("tfjs", "superset", "2.1", "G21"):
        with pytest.raises(InvalidTask) as refusal:
            replace(a_task(), pinned_dialect=other)
        assert refused_field(refusal) == "pinned_dialect"
