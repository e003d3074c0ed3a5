from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.task_documents import render_g21
from gateway.dialects.task_uploads import parse_task
from learning.aggregation import Aggregation, AggregationRule
from learning.refusals import InvalidId, InvalidTask
from learning.task import DataExample, DataKind, Scheme, Task
from tests.gateway.dialects.tasks import TABULAR

# The example of the server's own documentation: a title, and training parameters of version 2.1.1.
SEED: Mapping[str, Any] = {
    "taskID": "my-task",
    "displayInformation": {"taskTitle": "My task"},
    "trainingInformation": {
        "modelID": "my-model",
        "epochs": 5,
        "roundDuration": 10,
        "validationSplit": 0.2,
        "batchSize": 30,
        "modelCompileData": {"optimizer": "rmsprop", "loss": "binaryCrossentropy", "metrics": ["accuracy"]},
        "dataType": "tabular",
        "inputColumns": ["Age"],
        "outputColumns": ["Survived"],
        "scheme": "Federated",
    },
}

# What the form of the web app sends: flat, labels for names, texts for numbers and lists.
FORM: Mapping[str, Any] = {
    "displayInformation": {
        "taskTitle": "Cats & dogs!",
        "preview": "Which is it?",
        "overview": "Photographs.",
        "dataExampleImage": "",
        "dataExample": [],
    },
    "trainingInformation": {
        "dataType": "Image (.png, .jpg)",
        "scheme": "Decentralized",
        "epochs": "10",
        "batchSize": "8",
        "validationSplit": "0.25",
        "LABEL_LIST": "cat, dog",
        "IMAGE_H": 64,
        "IMAGE_W": 64,
        "inputColumns": [],
        "outputColumns": "",
        "preprocessingFunctions": ["resize", "normalize"],
        "modelTrainData": {"modelCompileData": None},
        "modelCompileData": {"optimizer": "adam", "loss": "categoricalCrossentropy", "metrics": "accuracy"},
        "privacyParameters": {"clippingRadius": "20", "noiseScale": None, "decentralizedSecure": True},
    },
}


def changed(document: Mapping[str, Any], **training: object) -> dict[str, Any]:
    return {**document, "trainingInformation": {**document["trainingInformation"], **training}}


def parsed(hint: str = "", **training: object) -> Task:
    document = changed(SEED, **training)
    if hint not in ("", "g21"):
        document["id"] = document.pop("taskID")
    return parse_task(document, dialect_hint=hint)


def test_the_documented_example_is_a_task() -> None:
    task = parse_task(SEED)
    assert (task.task_id, task.scheme, task.data_kind) == ("my-task", Scheme.FEDERATED, DataKind.TABULAR)
    assert task.display.title == "My task"
    training = task.training
    assert (training.epochs, training.batch_size, training.validation_split) == (5, 30, 0.2)
    assert (training.round_duration_batches, training.round_duration_epochs) == (10, 1)
    assert (training.optimizer, training.loss, training.metrics) == ("rmsprop", "binaryCrossentropy", ("accuracy",))
    assert (training.model_id, training.tensor_backend, task.policy.min_participants) == ("my-model", "tfjs", 2)


def test_what_the_web_form_sends_is_a_task() -> None:
    task = parse_task(FORM)
    assert (task.task_id, task.scheme, task.data_kind) == ("Cats_dogs", Scheme.DECENTRALIZED, DataKind.IMAGE)
    assert (task.display.preview, task.display.overview) == ("Which is it?", "Photographs.")
    training = task.training
    assert (training.epochs, training.batch_size, training.validation_split) == (10, 8, 0.25)
    assert (training.labels, training.output_columns) == (("cat", "dog"), ())
    assert (training.optimizer, training.metrics) == ("adam", ("accuracy",))
    assert (training.clipping_radius, training.noise_scale, training.secure_aggregation) == (20.0, None, True)
    assert task.policy.min_participants == 3


def test_gaps_are_filled_from_the_model_that_came_along() -> None:
    config = b'{"loss":"categorical_crossentropy","metrics":["accuracy"],"optimizer_config":{"class_name":"RMSProp"}}'
    document = changed(SEED, modelCompileData=None)
    training = parse_task(document, tensor_backend="gpt", training_config_json=config).training
    assert (training.tensor_backend, training.optimizer, training.loss) == ("gpt", "rmsprop", "categoricalCrossentropy")
    odd = b'{"loss":["a","b"],"metrics":null,"optimizer_config":null}'
    assert parse_task(document, training_config_json=odd).training.loss == "meanSquaredError"
    assert parse_task(document, training_config_json=b"[]").training.metrics == ("accuracy",)


@pytest.mark.parametrize(
    ("epochs", "given_duration", "expected"),
    [(20, 10, 10), (20, 7, 5), (20, 19, 10), (20, 50, 20), (7, 3, 1), (36, 8, 6), (6, 0, 1), (2147483647, 5, 1)],
)
def test_a_round_in_epochs_is_made_to_divide_them(epochs: int, given_duration: int, expected: int) -> None:
    training = parsed("gdv", epochs=epochs, roundDuration=given_duration).training
    assert (training.round_duration_epochs, training.round_duration_batches) == (expected, 10)


@pytest.mark.parametrize(
    ("names", "hint", "batches"),
    [
        (("taskID",), "", True),
        (("taskID",), "gdv", True),
        (("id",), "", False),
        (("id",), "g21", False),
        (("id", "taskID"), "", False),
        (("id", "taskID"), "superset", False),
        (("id", "taskID"), "g21", True),
        ((), "", True),
        ((), "g21", True),
        ((), "g30", False),
    ],
)
def test_the_name_of_the_id_says_what_a_round_is_counted_in_and_else_the_hint(
    names: tuple[str, ...], hint: str, batches: bool
) -> None:
    document = changed(SEED, roundDuration=5)
    del document["taskID"]
    training = parse_task({**document, **dict.fromkeys(names, "my-task")}, dialect_hint=hint).training
    assert (training.round_duration_batches, training.round_duration_epochs) == ((5, 1) if batches else (10, 5))


@pytest.mark.parametrize(
    ("hint", "training", "secure"),
    [
        ("g21", {"decentralizedSecure": True}, True),
        ("g22", {"decentralizedSecure": True}, False),
        ("g22", {"decentralizedSecure": True, "aggregator": 1}, True),
        ("g22", {"aggregator": 0}, False),
        ("g30", {"aggregator": "secure"}, True),
        ("g30", {"aggregator": "mean", "decentralizedSecure": True}, False),
        ("gdv", {"aggregationStrategy": "secure"}, True),
        ("gdv", {"aggregationStrategy": "mean"}, False),
        ("gdv", {"aggregator": True}, False),
    ],
)
def test_secure_aggregation_is_what_the_generation_takes_for_it(
    hint: str, training: dict[str, object], secure: bool
) -> None:
    assert parsed(hint, **training).training.secure_aggregation is secure


def test_the_words_of_newer_generations_are_understood() -> None:
    document = {
        "id": "new",
        "dataType": "tabular",
        "displayInformation": {
            "title": "New",
            "summary": "In short.",
            "dataExample": [{"name": "Age", "data": 22.5}],
            "sampleDataset": {"link": "https://example.org/a.csv", "instructions": "Unpack."},
        },
        "trainingInformation": {
            "epochs": 4,
            "batchSize": 2,
            "inputColumns": ["Age"],
            "outputColumn": "Survived",
            "contextLength": 64,
            "aggregationStrategy": "byzantine",
            "privacy": {"clippingRadius": 1.5},
            "tokenizer": {"model": "object"},
            "minNbOfParticipants": 5,
        },
    }
    task = parse_task(document)
    assert (task.display.title, task.display.preview) == ("New", "In short.")
    assert task.display.data_example == (DataExample("Age", "22.5"),)
    assert task.display.sample_dataset_link == "https://example.org/a.csv"
    training = task.training
    assert (training.output_columns, training.max_sequence_length, training.tokenizer) == (("Survived",), 64, "")
    assert (training.byzantine_robust, training.clipping_radius, task.policy.min_participants) == (True, 1.5, 5)
    assert task.aggregation_in_force == Aggregation(AggregationRule.CENTERED_CLIPPING)


def test_a_document_of_the_first_generation_chooses_the_quantile_of_its_robust_aggregation() -> None:
    document = render_g21(TABULAR)
    robust = Aggregation(AggregationRule.CENTERED_CLIPPING, radius_quantile=0.9)
    assert parse_task(document).aggregation_in_force == robust


def test_numbers_for_preprocessing_stand_for_what_the_kind_of_data_says() -> None:
    assert parsed(preprocessingFunctions=[1, 0, "mine"]).training.preprocessing == ("normalize", "sanitize", "mine")
    image = {"dataType": "image", "IMAGE_H": 1, "IMAGE_W": 1, "preprocessingFunctions": [0]}
    assert parsed(**image).training.preprocessing == ("resize",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([0, 2], ("sanitize", "2")),
        ([7.0, 999_999_999], ("7", "999999999")),
        (["0", "2", "02", "mine"], ("sanitize", "2", "02", "mine")),
        ("1,mine", ("normalize", "mine")),
    ],
)
def test_numbers_for_preprocessing_that_nobody_here_knows_are_kept(given: object, kept: tuple[str, ...]) -> None:
    assert parsed(preprocessingFunctions=given).training.preprocessing == kept


def test_a_relative_address_of_an_image_is_left_out() -> None:
    document = {**SEED, "displayInformation": {"taskTitle": "T", "dataExampleImage": "./ship.png"}}
    assert parse_task(document).display.data_example_image == ""


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "task"),
        (None, "task"),
        ({"id": "t"}, "trainingInformation.epochs"),
        (changed(SEED, epochs=None), "trainingInformation.epochs"),
        (changed(SEED, epochs=0), "trainingInformation.epochs"),
        (changed(SEED, batchSize="many"), "trainingInformation.batchSize"),
        (changed(SEED, validationSplit=1), "trainingInformation.validationSplit"),
        (changed(SEED, scheme="together"), "trainingInformation.scheme"),
        (changed(SEED, dataType="video"), "trainingInformation.dataType"),
        (changed(SEED, dataType="image"), "trainingInformation.IMAGE_H"),
        (changed(SEED, inputColumns=[]), "trainingInformation.inputColumns"),
        (changed(SEED, inputColumns=["a", {}]), "trainingInformation.inputColumns[1]"),
        (changed(SEED, preprocessingFunctions=[0, -1]), "trainingInformation.preprocessingFunctions[1]"),
        (changed(SEED, preprocessingFunctions=[1.5]), "trainingInformation.preprocessingFunctions[0]"),
        (changed(SEED, preprocessingFunctions=[1_000_000_000]), "trainingInformation.preprocessingFunctions[0]"),
        (changed(SEED, preprocessingFunctions=[[0]]), "trainingInformation.preprocessingFunctions[0]"),
        (changed(SEED, preprocessingFunctions=[True]), "trainingInformation.preprocessingFunctions[0]"),
        (changed(SEED, tensorBackend="torch"), "trainingInformation.tensorBackend"),
        (changed(SEED, privacy={"clippingRadius": -1}), "trainingInformation.clippingRadius"),
        (changed(SEED, minimumReadyPeers=0), "trainingInformation.minimumReadyPeers"),
        (changed(SEED, modelURL="https://"), "trainingInformation.modelURL"),
        ({**SEED, "displayInformation": {"taskTitle": "T", "dataExample": [1]}}, "displayInformation.dataExample[0]"),
        ({**SEED, "displayInformation": {"taskTitle": "T" * 20_000}}, "displayInformation.taskTitle"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_json_path(document: object, field: str) -> None:
    with pytest.raises(InvalidTask) as refusal:
        parse_task(document)
    assert refusal.value.variables["field"] == field


def test_an_id_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InvalidId):
        parse_task({**SEED, "taskID": "../etc"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["id", "taskID", "displayInformation", "modelCompileData"]), json_values),
    st.dictionaries(
        st.sampled_from([*SEED["trainingInformation"], "privacy", "IMAGE_H", "LABEL_LIST", "aggregator", "tokenizer"]),
        json_values,
    ),
    st.sampled_from(["", "g21", "gdv"]),
)
def test_whatever_is_uploaded_is_a_task_or_refused_by_name(
    document: dict[str, object], training: dict[str, object], hint: str
) -> None:
    try:
        outcome: object = parse_task({**changed(SEED, **training), **document}, dialect_hint=hint)
    except (InvalidTask, InvalidId) as refusal:
        outcome = refusal
    assert isinstance(outcome, (Task, InvalidTask, InvalidId))


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidTask) as refusal:
        parse_task(
            {
                "id": "a/b",
                "displayInformation": {"dataExampleImage": 5, "dataExample": "x", "headers": [[]]},
                "trainingInformation": {
                    "dataType": "tabular",
                    "scheme": "odd",
                    "epochs": "many",
                    "batchSize": 0,
                    "validationSplit": 2,
                    "minNbOfParticipants": -1,
                    "inputColumns": ["a"],
                },
            }
        )
    assert set(refusal.value.problems) == {
        ("id", "is not 1 to 128 of A-Z, a-z, 0-9, '_', '.', '-'"),
        ("displayInformation.dataExample", "is not a list"),
        ("displayInformation.headers[0]", "is not a text"),
        ("trainingInformation.scheme", "is not federated, decentralized or local"),
        ("trainingInformation.epochs", "is not a number"),
        ("trainingInformation.batchSize", "must be at least 1"),
        ("trainingInformation.validationSplit", "must be at least 0 and below 1"),
        ("trainingInformation.minNbOfParticipants", "is not a whole number from 0 to 2147483647"),
        ("trainingInformation.outputColumns", "are required for tabular data"),
    }
    assert str(refusal.value).count("; ") == len(refusal.value.problems) - 1


def test_missing_title_and_numbers_are_all_named() -> None:
    with pytest.raises(InvalidTask) as refusal:
        parse_task({"displayInformation": {}, "trainingInformation": {"dataType": "image"}})
    assert [path for path, _ in refusal.value.problems] == [
        "id",
        "displayInformation.taskTitle",
        "trainingInformation.epochs",
        "trainingInformation.batchSize",
        "trainingInformation.IMAGE_H",
        "trainingInformation.IMAGE_W",
    ]
