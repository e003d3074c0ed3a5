"""The validators of the four generations, as far as protocol section 5 tells them, and what each can carry."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.dialects import task_documents
from gateway.dialects.registry import RENDERINGS
from gateway.dialects.task_documents import parse_task
from learning.policy import Policy
from learning.task import DataExample, DisplayInformation, Task, TrainingInformation
from tests.gateway.dialects.tasks import IMAGE, TABULAR, TASKS

Document = dict[str, Any]


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def optional(place: Mapping[str, Any], valid: Callable[[Any], bool], *names: str) -> bool:
    """Absent, or valid; null is not absent."""
    return all(name not in place or valid(place[name]) for name in names)


def is_text(value: object) -> bool:
    return isinstance(value, str)


def displayed(display: object, *, later: bool) -> bool:
    if not isinstance(display, dict) or not is_text(display.get("taskTitle")):
        return False
    summary = display.get("summary", None if later else {"preview": "", "overview": ""})
    return (
        isinstance(summary, dict)
        and is_text(summary.get("preview"))
        and is_text(summary.get("overview"))
        and optional(display, is_text, "tradeoffs", "limitations", "dataFormatInformation", "dataExampleText", "model")
        and optional(display, is_text, "dataExampleImage", "sampleDatasetLink", "sampleDatasetInstructions")
        and (not later or optional(display, lambda url: url.startswith("http"), "dataExampleImage"))
        and optional(display, are_texts, "headers")
        and all(
            is_text(cell["columnName"])
            and (is_text(cell["columnData"]) or is_number(cell["columnData"]))
            and (later or set(cell) == {"columnName", "columnData"})
            for cell in display.get("dataExample", [])
        )
    )


def sized(training: Document) -> bool:
    return training["dataType"] != "image" or (
        is_number(training.get("IMAGE_H")) and is_number(training.get("IMAGE_W"))
    )


def g21_accepts(task: Document) -> bool:
    training = task.get("trainingInformation", {})
    compiled = training.get("modelCompileData", {})
    return (
        is_text(task.get("taskID"))
        and displayed(task.get("displayInformation"), later=False)
        and all(is_number(training.get(name)) for name in ("epochs", "batchSize", "validationSplit", "roundDuration"))
        and is_text(training.get("modelID"))
        and is_text(training.get("dataType"))
        and is_text(compiled.get("optimizer"))
        and is_text(compiled.get("loss"))
        and are_texts(compiled.get("metrics"))
        and optional(training, are_texts, "preprocessingFunctions", "inputColumns", "outputColumns", "LABEL_LIST")
        and optional(training, is_number, "learningRate", "noiseScale", "clippingRadius", "maxShareValue")
        and optional(training, is_number, "minimumReadyPeers", "tauPercentile")
        and optional(training, lambda flag: isinstance(flag, bool), "decentralizedSecure", "byzantineRobustAggregator")
        and optional(training, is_text, "modelURL")
        and (training["dataType"] != "tabular" or {"inputColumns", "outputColumns"} <= set(training))
        and sized(training)
    )


def later_accepts(task: Document) -> bool:
    """What G22, G30 and GDV have in common."""
    training = task.get("trainingInformation", {})
    return (
        is_text(task.get("id"))
        and displayed(task.get("displayInformation"), later=True)
        and all(is_number(training.get(name)) for name in ("epochs", "batchSize", "validationSplit", "roundDuration"))
        and training["epochs"] % training["roundDuration"] == 0
        and training.get("dataType") in ("image", "tabular", "text")
        and training.get("scheme") in ("federated", "decentralized", "local")
        and training.get("tensorBackend") in ("tfjs", "gpt")
        and optional(training, lambda value: isinstance(value, list), "preprocessingFunctions")
        and optional(training, are_texts, "inputColumns", "outputColumns", "LABEL_LIST")
        and optional(training, is_text, "tokenizer")
        and optional(training, is_number, "maxSequenceLength", "maxShareValue")
        and sized(training)
    )


def g22_accepts(task: Document) -> bool:
    training = task.get("trainingInformation", {})
    return (
        later_accepts(task)
        and is_text(training.get("modelID"))
        and optional(training, is_number, "noiseScale", "clippingRadius", "minimumReadyPeers", "aggregator")
    )


def privacy_accepted(training: Document) -> bool:
    privacy = training.get("privacy", {})
    return isinstance(privacy, dict) and optional(privacy, is_number, "clippingRadius", "noiseScale")


def g30_accepts(task: Document) -> bool:
    training = task.get("trainingInformation", {})
    return (
        later_accepts(task)
        and is_text(training.get("modelID"))
        and privacy_accepted(training)
        and optional(training, is_number, "minimumReadyPeers")
        and optional(training, lambda name: name in ("mean", "secure"), "aggregator")
    )


def gdv_accepts(task: Document) -> bool:
    training = task.get("trainingInformation", {})
    return (
        later_accepts(task)
        and privacy_accepted(training)
        and is_number(training.get("minNbOfParticipants"))
        and optional(training, lambda name: name in ("mean", "secure"), "aggregationStrategy")
    )


VALIDATORS = {"g21": g21_accepts, "g22": g22_accepts, "g30": g30_accepts, "gdv": gdv_accepts}

# What the record holds and the generation has no word for, with the value that the reader then fills in.
LATER_DISPLAY = {"tradeoffs": "", "limitations": ""}
G21_DISPLAY = {"sample_dataset_link": "", "sample_dataset_instructions": ""}
LATER_TRAINING = {
    "round_duration_batches": 10,
    "optimizer": "sgd",
    "loss": "meanSquaredError",
    "metrics": ("accuracy",),
    "learning_rate": None,
    "model_url": "",
    "byzantine_robust": False,
    "tau_percentile": None,
}
G21_TRAINING = {"round_duration_epochs": 1, "tensor_backend": "tfjs", "tokenizer": "", "max_sequence_length": 0}


def expressible(task: Task, dialect: str) -> Task:
    """The task without what the dialect cannot say."""
    display: dict[str, Any] = {"g21": G21_DISPLAY, "superset": {}}.get(dialect, LATER_DISPLAY)
    training: dict[str, Any] = {"g21": G21_TRAINING, "superset": {"round_duration_batches": 10}}.get(
        dialect, LATER_TRAINING
    )
    changed = dict(training)
    if dialect == "gdv":
        changed["model_id"] = ""
    else:
        changed["model_id"] = task.model_id
    if dialect == "g21":
        later = {"sanitize", "tokenize", "left_padding"}
        changed["preprocessing"] = tuple(name for name in task.training.preprocessing if name not in later)
    return replace(task, display=replace(task.display, **display), training=replace(task.training, **changed))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.data_kind.value)
@pytest.mark.parametrize("dialect", VALIDATORS)
def test_every_generation_accepts_its_own_rendering(task: Task, dialect: str) -> None:
    assert VALIDATORS[dialect](RENDERINGS[dialect].render_task(task))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.data_kind.value)
@pytest.mark.parametrize("dialect", VALIDATORS)
def test_every_generation_accepts_the_superset(task: Task, dialect: str) -> None:
    assert VALIDATORS[dialect](task_documents.render_superset(task))


def test_the_superset_counts_rounds_in_epochs_and_names_preprocessing_in_words() -> None:
    training: Any = task_documents.render_superset(IMAGE)["trainingInformation"]
    assert training["preprocessingFunctions"] == ["resize", "normalize"]
    assert training["roundDuration"] == 1
    assert "aggregator" not in training


@pytest.mark.parametrize(
    ("given", "pinned", "expected"),
    [
        (("normalize", "my_own"), "", {"g21": ["normalize", "my_own"], "later": [1], "superset": ["normalize"]}),
        (("normalize", "my_own"), "g21", {"later": [1], "superset": ["normalize", "my_own"]}),
        (("resize", "2"), "", {"g21": ["resize"], "later": [0, 2], "superset": ["resize", "2"]}),
        (("resize", "2"), "g21", {"g21": ["resize"], "later": [0, 2], "superset": ["resize"]}),
        (("my_own", "7", "resize", "normalize"), "g30", {"g21": ["my_own", "resize", "normalize"], "later": [7, 0, 1]}),
    ],
)
def test_unknown_preprocessing_goes_to_the_generations_that_have_a_word_for_it(
    given: tuple[str, ...], pinned: str, expected: dict[str, list[object]]
) -> None:
    task = replace(IMAGE, training=replace(IMAGE.training, preprocessing=given), pinned_dialect=pinned)
    for dialect in (*VALIDATORS, "superset"):
        document: Any = RENDERINGS[dialect].render_task(task)
        wanted = expected.get(dialect if dialect in ("g21", "superset") else "later")
        if wanted is not None:
            assert document["trainingInformation"]["preprocessingFunctions"] == wanted
        for validator in VALIDATORS if dialect == "superset" else [dialect]:
            assert VALIDATORS[validator](document)


def test_the_renderings_differ_where_the_validators_conflict() -> None:
    accepted = {
        dialect: {name for name, valid in VALIDATORS.items() if valid(RENDERINGS[dialect].render_task(IMAGE))}
        for dialect in VALIDATORS
    }
    assert accepted == {"g21": {"g21"}, "g22": {"g22"}, "g30": {"g30"}, "gdv": {"gdv"}}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.data_kind.value)
@pytest.mark.parametrize("dialect", [*VALIDATORS, "superset"])
def test_a_rendered_task_is_read_back_as_far_as_the_generation_can_say_it(task: Task, dialect: str) -> None:
    document = json.loads(json.dumps(RENDERINGS[dialect].render_task(task)))
    expected = expressible(task, dialect)
    if dialect == "superset":
        # Its secure aggregation is said in GDV's word.
        assert parse_task(document, dialect_hint="superset") == expected
    else:
        assert parse_task(document, dialect_hint=dialect) == expected
        assert parse_task(document) == expected


@pytest.mark.parametrize("dialect", RENDERINGS)
def test_absent_is_left_out_and_never_null(dialect: str) -> None:
    bare = Task(
        TABULAR.task_id,
        TABULAR.scheme,
        TABULAR.data_kind,
        DisplayInformation(title="T"),
        TrainingInformation(epochs=1, batch_size=1, input_columns=("a",), output_columns=("b",)),
        Policy(),
    )
    document = RENDERINGS[dialect].render_task(bare)
    assert "null" not in json.dumps(document)
    assert set(document) <= {"id", "taskID", "displayInformation", "trainingInformation"}
    optional_names = {
        "tradeoffs",
        "dataExample",
        "headers",
        "privacy",
        "noiseScale",
        "IMAGE_H",
        "LABEL_LIST",
        "tokenizer",
    }
    assert not optional_names & {*document["displayInformation"], *document["trainingInformation"]}  # type: ignore[misc]


def test_a_summary_is_whole_or_left_out_where_that_is_allowed() -> None:
    half = replace(TABULAR, display=DisplayInformation(title="T", overview="All of it."))
    none = replace(TABULAR, display=DisplayInformation(title="T"))
    summaries = {
        (dialect, task.display.overview): RENDERINGS[dialect].render_task(task)["displayInformation"].get("summary")  # type: ignore[attr-defined]
        for dialect in ("g21", "g30")
        for task in (half, none)
    }
    assert summaries == {
        ("g21", "All of it."): {"preview": "", "overview": "All of it."},
        ("g21", ""): None,
        ("g30", "All of it."): {"preview": "", "overview": "All of it."},
        ("g30", ""): {"preview": "", "overview": ""},
    }


def test_g21_reads_this_document() -> None:
    small = replace(
        TABULAR,
        display=DisplayInformation(title="Titanic", preview="Who?", data_example=(DataExample("Age", "22"),)),
        training=TrainingInformation(epochs=20, batch_size=30, input_columns=("Age",), output_columns=("Survived",)),
    )
    assert RENDERINGS["g21"].render_task(small) == {
        "taskID": "titanic",
        "displayInformation": {
            "taskTitle": "Titanic",
            "summary": {"preview": "Who?", "overview": ""},
            "dataExample": [{"columnName": "Age", "columnData": "22"}],
        },
        "trainingInformation": {
            "modelID": "titanic-model",
            "epochs": 20,
            "batchSize": 30,
            "validationSplit": 0.0,
            "roundDuration": 10,
            "dataType": "tabular",
            "scheme": "Federated",
            "modelCompileData": {"optimizer": "sgd", "loss": "meanSquaredError", "metrics": ["accuracy"]},
            "preprocessingFunctions": [],
            "inputColumns": ["Age"],
            "outputColumns": ["Survived"],
            "minimumReadyPeers": 4,
        },
    }


def test_gdv_reads_these_training_parameters() -> None:
    assert RENDERINGS["gdv"].render_task(IMAGE)["trainingInformation"] == {
        "epochs": 10,
        "batchSize": 64,
        "validationSplit": 0.0,
        "roundDuration": 1,
        "dataType": "image",
        "scheme": "decentralized",
        "tensorBackend": "tfjs",
        "preprocessingFunctions": [0, 1],
        "IMAGE_H": 28,
        "IMAGE_W": 32,
        "LABEL_LIST": ["0", "1"],
        "maxShareValue": 100,
        "privacy": {"clippingRadius": 20, "noiseScale": 1.5},
        "minNbOfParticipants": 3,
        "aggregationStrategy": "secure",
    }
