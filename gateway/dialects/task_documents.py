"""Tasks as JSON documents: one rendering per client generation.

Owns the names and shapes of protocol section 5; the way back, for all
generations at once, is `parse_task` in `gateway.dialects.task_uploads`. Knows no
HTTP and no model. Absent is left out, never null: validators take null for a
value of the wrong type.

    g21        string preprocessing, capitalised scheme, rounds in batches, modelCompileData
    g22 g30    numbers for preprocessing, rounds in epochs, tensorBackend; privacy flat (g22) or nested (g30)
    gdv        minNbOfParticipants, aggregationStrategy; no modelID
    superset   what the validators of all four accept at once, for a root where nobody said which it is;
               what means something else to each generation is as the one means it that the task is pinned to

Preprocessing functions that nobody here knows are passed on to the generations that have a word for them: names to g21,
numbers from 2 on to the others, whose code counts the items and would run one more function for a name.
"""

from __future__ import annotations

from typing import Final

from gateway.dialects.aggregation_fields import aggregation_document
from gateway.dialects.task_uploads import PREPROCESSING, parse_task, preprocessing_number
from learning.task import DisplayInformation, Scheme, Task

__all__ = ["parse_task", "render_g21", "render_g22", "render_g30", "render_gdv", "render_superset"]

Document = dict[str, object]

_UNKNOWN_TO_G21: Final = {"sanitize", "tokenize", "left_padding"}


def render_g21(task: Task) -> Document:
    training = _training(task) | _compiled(task) | _flat_privacy(task) | _ready_peers(task)
    training |= {
        "roundDuration": task.training.round_duration_batches,
        "scheme": task.scheme.value.capitalize(),
        "preprocessingFunctions": [name for name in _named_preprocessing(task) if name not in _UNKNOWN_TO_G21],
    }
    return {
        "taskID": task.task_id,
        "displayInformation": _display(task.display) | _summary(task.display, required=False) | _warnings(task.display),
        "trainingInformation": training,
    } | _aggregation(task)


def render_g22(task: Task) -> Document:
    training = _training(task) | _flat_privacy(task) | _ready_peers(task) | _later(task)
    training |= {"modelID": task.model_id} | ({"aggregator": 1} if task.training.secure_aggregation else {})
    return _later_document(task, training)


def render_g30(task: Task) -> Document:
    training = _training(task) | _nested_privacy(task) | _ready_peers(task) | _later(task)
    training |= {"modelID": task.model_id} | ({"aggregator": "secure"} if task.training.secure_aggregation else {})
    return _later_document(task, training)


def render_gdv(task: Task) -> Document:
    return _later_document(task, _training(task) | _nested_privacy(task) | _later(task) | _participants(task))


def render_superset(task: Task) -> Document:
    """No `aggregator`: its type differs between G22 and G30.

    Where no spelling differs but the meaning does (rounds are counted in batches or in epochs, preprocessing functions
    by their names or by how many they are), the task's pin decides; without one it is as the later generations have it.
    """
    training = _training(task) | _compiled(task) | _flat_privacy(task) | _nested_privacy(task) | _ready_peers(task)
    training |= _later(task) | _participants(task)
    if task.pinned_dialect == "g21":
        training["roundDuration"] = task.training.round_duration_batches
        training["preprocessingFunctions"] = _named_preprocessing(task)
    else:
        training["preprocessingFunctions"] = [name for name, _ in _numbered_preprocessing(task)]
    document = _later_document(task, training)
    return document | {
        "taskID": task.task_id,
        "displayInformation": _later_display(task.display) | _warnings(task.display),
    }


def _later_document(task: Task, training: Document) -> Document:
    return {
        "id": task.task_id,
        "displayInformation": _later_display(task.display),
        "trainingInformation": training,
    } | _aggregation(task)


def _aggregation(task: Task) -> Document:
    return {} if task.aggregation is None else {"aggregation": aggregation_document(task.aggregation)}


def _present(**values: object) -> Document:
    """Those that are there: an empty text, an empty list and None are absent."""
    return {name: value for name, value in values.items() if value is not None and value not in ("", [])}


def _display(display: DisplayInformation) -> Document:
    # Exactly these two keys in an entry: G21 refuses a third.
    example = [{"columnName": cell.column_name, "columnData": cell.column_value} for cell in display.data_example]
    return {"taskTitle": display.title} | _present(
        model=display.model,
        dataFormatInformation=display.data_format,
        dataExampleText=display.data_example_text,
        dataExampleImage=display.data_example_image,
        dataExample=example,
        headers=list(display.headers),
    )


def _later_display(display: DisplayInformation) -> Document:
    sample = _present(
        sampleDatasetLink=display.sample_dataset_link,
        sampleDatasetInstructions=display.sample_dataset_instructions,
    )
    return _display(display) | _summary(display, required=True) | sample


def _summary(display: DisplayInformation, *, required: bool) -> Document:
    if not (required or display.preview or display.overview):
        return {}
    return {"summary": {"preview": display.preview, "overview": display.overview}}


def _warnings(display: DisplayInformation) -> Document:
    return _present(tradeoffs=display.tradeoffs, limitations=display.limitations)


def _training(task: Task) -> Document:
    """What every generation calls the same."""
    training = task.training
    return {
        "epochs": training.epochs,
        "batchSize": training.batch_size,
        "validationSplit": training.validation_split,
        "dataType": task.data_kind.value,
    } | _present(
        inputColumns=list(training.input_columns),
        outputColumns=list(training.output_columns),
        IMAGE_H=training.image_height or None,
        IMAGE_W=training.image_width or None,
        LABEL_LIST=list(training.labels),
        maxShareValue=training.max_share_value,
    )


def _later(task: Task) -> Document:
    training = task.training
    return {
        "roundDuration": training.round_duration_epochs,
        "scheme": task.scheme.value,
        "tensorBackend": training.tensor_backend,
        "preprocessingFunctions": [number for _, number in _numbered_preprocessing(task)],
    } | _present(tokenizer=training.tokenizer, maxSequenceLength=training.max_sequence_length or None)


def _named_preprocessing(task: Task) -> list[str]:
    """Those that have a name."""
    known = PREPROCESSING[task.data_kind]
    return [
        name
        for name in task.training.preprocessing
        if name in known or preprocessing_number(name, task.data_kind) is None
    ]


def _numbered_preprocessing(task: Task) -> list[tuple[str, int]]:
    """Those that have a number, with it."""
    numbered = ((name, preprocessing_number(name, task.data_kind)) for name in task.training.preprocessing)
    return [(name, number) for name, number in numbered if number is not None]


def _compiled(task: Task) -> Document:
    """What G21 clients build the compiled model, and the robust aggregation, from."""
    training = task.training
    compiled = {"optimizer": training.optimizer, "loss": training.loss, "metrics": list(training.metrics)}
    return {"modelID": task.model_id, "modelCompileData": compiled} | _present(
        modelURL=training.model_url,
        learningRate=training.learning_rate,
        byzantineRobustAggregator=training.byzantine_robust or None,
        tauPercentile=training.tau_percentile,
    )


def _flat_privacy(task: Task) -> Document:
    return _present(noiseScale=task.training.noise_scale, clippingRadius=task.training.clipping_radius)


def _nested_privacy(task: Task) -> Document:
    privacy = _flat_privacy(task)
    return {"privacy": privacy} if privacy else {}


def _ready_peers(task: Task) -> Document:
    return {"minimumReadyPeers": task.policy.min_participants} | _present(
        decentralizedSecure=task.training.secure_aggregation or None
    )


def _participants(task: Task) -> Document:
    secure = task.scheme is Scheme.DECENTRALIZED and task.training.secure_aggregation
    return {
        "minNbOfParticipants": task.policy.min_participants,
        "aggregationStrategy": "secure" if secure else "mean",
    }
