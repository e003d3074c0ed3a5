"""What an uploaded task says of the server's aggregation is read, and shown to the clients of every generation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.dialects import task_documents
from gateway.dialects.aggregation_fields import aggregation_document, read_aggregation
from gateway.dialects.registry import RENDERINGS
from gateway.dialects.task_documents import parse_task
from learning.aggregation import Aggregation, AggregationRule
from learning.privacy import CentralPrivacy
from learning.refusals import InvalidTask
from tests.gateway.dialects.tasks import TABULAR
from tests.gateway.dialects.test_task_documents import VALIDATORS

PRIVATE = Aggregation(
    AggregationRule.FEDAVGM,
    momentum=0.5,
    privacy=CentralPrivacy(clipping_norm=1.5, noise_multiplier=1.1, delta=1e-5, epsilon_budget=8.0),
)
DOCUMENT = {
    "rule": "fedavgm",
    "momentum": 0.5,
    "privacy": {"clipping_norm": 1.5, "noise_multiplier": 1.1, "delta": 1e-5, "epsilon_budget": 8.0},
}


@pytest.mark.parametrize("dialect", RENDERINGS)
def test_every_rendering_shows_it_and_is_read_back(dialect: str) -> None:
    rendered = json.loads(json.dumps(RENDERINGS[dialect].render_task(replace(TABULAR, aggregation=PRIVATE))))
    assert rendered["aggregation"] == DOCUMENT
    assert parse_task(rendered, dialect_hint=dialect).aggregation == PRIVATE
    # What clients are told to do by themselves is another matter, and stays as it was.
    without = json.loads(json.dumps(RENDERINGS[dialect].render_task(replace(TABULAR, aggregation=None))))
    assert {name: part for name, part in rendered.items() if name != "aggregation"} == without


@pytest.mark.parametrize("dialect", VALIDATORS)
def test_every_generation_accepts_a_task_that_shows_it(dialect: str) -> None:
    task = replace(TABULAR, aggregation=PRIVATE)
    assert VALIDATORS[dialect](RENDERINGS[dialect].render_task(task))
    assert VALIDATORS[dialect](task_documents.render_superset(task))


@pytest.mark.parametrize("rule", list(AggregationRule))
def test_every_rule_can_be_chosen(rule: AggregationRule) -> None:
    assert read_aggregation({"rule": rule.value}) == Aggregation(rule)
    assert aggregation_document(Aggregation(rule)) == {"rule": rule.value}


def test_other_spellings_and_numbers_as_texts_are_taken() -> None:
    privacy = {"clippingNorm": "1.5", "noiseMultiplier": 1.1, "delta": "1e-5", "epsilonBudget": 8}
    assert read_aggregation({"rule": "fedavgm", "momentum": "0.5", "privacy": privacy}) == PRIVATE
    assert read_aggregation({"privacy": DOCUMENT["privacy"]}) == Aggregation(privacy=PRIVATE.privacy)
    assert read_aggregation({}) == Aggregation()
    clipping = read_aggregation({"rule": "centered_clipping", "iterations": 3, "radius": 2})
    assert clipping == Aggregation(AggregationRule.CENTERED_CLIPPING, iterations=3, radius=2)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ("mean", "aggregation"),
        ([], "aggregation"),
        ({"rule": "average"}, "aggregation.rule"),
        ({"rule": 7}, "aggregation.rule"),
        ({"rule": "mean", "momentum": 0.9}, "aggregation.momentum"),
        ({"rule": "mean", "epsilon": 1}, "aggregation.epsilon"),
        ({"rule": "centered_clipping", "iterations": 1.5}, "aggregation.iterations"),
        ({"privacy": 1}, "aggregation.privacy"),
        ({"privacy": {}}, "aggregation.privacy.clipping_norm"),
        ({"privacy": {**DOCUMENT["privacy"], "sigma": 1}}, "aggregation.privacy.sigma"),  # type: ignore[dict-item]
        ({"privacy": {**DOCUMENT["privacy"], "delta": 1}}, "aggregation.privacy.delta"),  # type: ignore[dict-item]
        ({"privacy": {**DOCUMENT["privacy"], "delta": "x"}}, "aggregation.privacy.delta"),  # type: ignore[dict-item]
        ({"rule": "median", "privacy": DOCUMENT["privacy"]}, "aggregation.privacy"),
    ],
)
def test_what_is_wrong_is_named_by_its_json_path(document: Any, field: str) -> None:
    task = RENDERINGS["gdv"].render_task(replace(TABULAR, aggregation=None))
    with pytest.raises(InvalidTask) as refused:
        parse_task({**task, "aggregation": document})
    assert [name for name, _ in refused.value.problems] == [field]


def test_peers_among_themselves_cannot_be_clipped_by_a_server() -> None:
    task = RENDERINGS["gdv"].render_task(replace(TABULAR, aggregation=None))
    training: Any = task["trainingInformation"]
    decentralized = {**task, "trainingInformation": {**training, "scheme": "decentralized"}}
    with pytest.raises(InvalidTask, match=r"aggregation\.privacy: can be asked for in a federated task only"):
        parse_task({**decentralized, "aggregation": {"privacy": DOCUMENT["privacy"]}})
