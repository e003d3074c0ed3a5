"""What clients of each generation demand: as it was measured on their own validators (protocol section 5.5)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from disco_server.client_rules import GENERATIONS, problems_of
from gateway.dialects.registry import RENDERINGS
from services.task_service.default_tasks import DEFAULT_TASKS

BASE: dict[str, Any] = {
    "taskID": "t",
    "id": "t",
    "displayInformation": {
        "taskTitle": "T",
        "summary": {"preview": "p", "overview": "o"},
        "dataExample": [{"columnName": "a", "columnData": 1}],
        "dataExampleImage": "https://example.org/a.png",
        "headers": ["a"],
    },
    "trainingInformation": {
        "modelID": "m",
        "epochs": 10,
        "batchSize": 10,
        "validationSplit": 0.2,
        "roundDuration": 2,
        "dataType": "tabular",
        "scheme": "federated",
        "tensorBackend": "tfjs",
        "modelCompileData": {"optimizer": "sgd", "loss": "l", "metrics": ["accuracy"]},
        "preprocessingFunctions": [],
        "inputColumns": ["a"],
        "outputColumns": ["b"],
        "minimumReadyPeers": 2,
        "minNbOfParticipants": 2,
        "odd": None,
    },
}
GONE = object()


def changed(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(BASE)
    *folders, name = path.split(".")
    place = document
    for folder in folders:
        place = place[folder]
    if value is GONE:
        del place[name]
    else:
        place[name] = value
    return document


T, D = "trainingInformation.", "displayInformation."


@pytest.mark.parametrize(
    ("path", "value", "accepted_by"),
    [
        ("more", {}, "g21 g22 g30 gdv"),
        (T + "preprocessingFunctions", [0], "g22 g30 gdv"),
        (T + "preprocessingFunctions", ["normalize"], "g21 g22 g30 gdv"),
        (T + "preprocessingFunctions", GONE, "g21 g22 g30 gdv"),
        (T + "scheme", "Federated", "g21"),
        (T + "scheme", GONE, "g21"),
        (T + "dataType", "odd", "g21"),
        (T + "inputColumns", GONE, "g22 g30 gdv"),
        (T + "dataType", "image", ""),
        ("displayInformation", GONE, ""),
        (D + "summary", "text", ""),
        (T + "epochs", "10", ""),
        (D + "taskTitle", GONE, ""),
        (D + "summary", GONE, "g21"),
        (T + "modelID", GONE, "gdv"),
        (T + "modelCompileData", GONE, "g22 g30 gdv"),
        (T + "tensorBackend", GONE, "g21"),
        (T + "minNbOfParticipants", GONE, "g21 g22 g30"),
        (T + "aggregator", 0, "g21 g22 gdv"),
        (T + "aggregator", "mean", "g21 g30 gdv"),
        (D + "dataExample", [{"columnName": "a", "columnData": 1, "x": 1}], "g22 g30 gdv"),
        (D + "dataExampleImage", "/a.png", "g21"),
        (T + "noiseScale", None, "g30 gdv"),
        (T + "privacy", None, "g21 g22"),
        ("digest", None, "gdv"),
        (T + "roundDuration", 3, "g21"),
        ("taskID", GONE, "g22 g30 gdv"),
        ("id", GONE, "g21"),
    ],
)
def test_each_generation_accepts_what_its_own_validator_accepted(path: str, value: object, accepted_by: str) -> None:
    document = changed(path, value)
    assert [dialect for dialect in GENERATIONS if not problems_of(document, dialect)] == accepted_by.split()


@pytest.mark.parametrize("task_id", DEFAULT_TASKS)
@pytest.mark.parametrize("dialect", GENERATIONS)
def test_what_this_server_renders_for_a_generation_is_accepted_by_it(task_id: str, dialect: str) -> None:
    rendered = RENDERINGS[dialect].render_task(DEFAULT_TASKS[task_id]().task)
    assert problems_of(rendered, dialect) == []


def test_reasons_name_the_path() -> None:
    path = T + "modelCompileData"
    assert problems_of(changed(path, {"optimizer": 1}), "g21") == [
        (path, "is no object with the texts optimizer and loss and the list of texts metrics")
    ]
    assert problems_of([], "g21") == [("", "is no object")]
