"""Reads a task that somebody uploads, in the shape of any generation or of the web form.

Fills gaps by the rules of protocol section 5.6 and refuses with the JSON path of
what cannot be read. Knows no HTTP; of the model only what the caller says of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

from gateway.dialects.aggregation_fields import read_aggregation
from gateway.dialects.json_fields import Fields
from gateway.dialects.policy_fields import read_norm_gate, read_policy
from learning.aggregation import Aggregation
from learning.ids import TaskId
from learning.ids import task_id as valid_task_id
from learning.norm_gate import NormGate
from learning.policy import Policy
from learning.refusals import InvalidId, InvalidPolicy, InvalidTask
from learning.task import DataExample, DataKind, DisplayInformation, Scheme, Task, TrainingInformation

PREPROCESSING: Final[Mapping[DataKind, tuple[str, ...]]] = {
    DataKind.IMAGE: ("resize", "normalize"),
    DataKind.TABULAR: ("sanitize", "normalize"),
    DataKind.TEXT: ("tokenize", "left_padding"),
}
"""What the numbers 0 and 1 stand for in `preprocessingFunctions`, from G22 on."""
MAX_PREPROCESSING_NUMBER: Final = 999_999_999
_PREPROCESSING_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,8}")

_JSON_PATHS: Final = {
    "display.title": "displayInformation.taskTitle",
    "display.preview": "displayInformation.summary.preview",
    "display.overview": "displayInformation.summary.overview",
    "display.data_format": "displayInformation.dataFormatInformation",
    "training.round_duration_batches": "trainingInformation.roundDuration",
    "training.round_duration_epochs": "trainingInformation.roundDuration",
    "training.image_height": "trainingInformation.IMAGE_H",
    "training.image_width": "trainingInformation.IMAGE_W",
    "training.labels": "trainingInformation.LABEL_LIST",
    "training.preprocessing": "trainingInformation.preprocessingFunctions",
    "training.model_id": "trainingInformation.modelID",
    "training.model_url": "trainingInformation.modelURL",
    "training.optimizer": "trainingInformation.modelCompileData.optimizer",
    "training.loss": "trainingInformation.modelCompileData.loss",
    "training.metrics": "trainingInformation.modelCompileData.metrics",
}
"""Names of the record that are not simply camelCase in the documents."""

_IN_PLACE: Final[Mapping[str, Any]] = {"title": "-", "epochs": 1, "batch_size": 1}
"""What stands in for fields that must be there, while what else is wrong is found out."""

_Record = TypeVar("_Record", DisplayInformation, TrainingInformation)

_PIN: Final = ("pinned_dialect", "pinnedDialect")

_DEFAULT_MINIMUM: Final = {Scheme.FEDERATED: 2, Scheme.DECENTRALIZED: 3, Scheme.LOCAL: 1}


def parse_task(
    document: object,
    *,
    dialect_hint: str = "",
    tensor_backend: str = "tfjs",
    training_config_json: bytes = b"",
    pinned_dialect: str = "",
) -> Task:
    """The task in a document. What was uploaded beside it fills gaps: the kind of model and how it is compiled.

    `dialect_hint` is the dialect of the request, "" where that is unknown: it decides what fields mean that generations
    use differently, where the document itself does not tell. `pinned_dialect` is what the task is pinned to, unless
    the document says something else, which may be nothing.
    Raises InvalidTask with the JSON path of every field that is wrong; InvalidId where it is the id alone.
    """
    if not isinstance(document, Mapping):
        raise InvalidTask(field="task", problem="is no object")
    reader = _Reader(document, dialect_hint, tensor_backend=tensor_backend, training_config=training_config_json)
    try:
        return reader.task(pinned_dialect)
    except InvalidTask as refusal:
        paths = [(_json_path(name), problem) for name, problem in refusal.problems]
        raise InvalidTask(problems=dict.fromkeys(paths)) from None


def preprocessing_number(name: str, kind: DataKind) -> int | None:
    """How generations from G22 on call a preprocessing function; None where it has no number."""
    known = PREPROCESSING[kind]
    if name in known:
        return known.index(name)
    return int(name) if _PREPROCESSING_NUMBER.fullmatch(name) else None


def _named(name: str, kind: DataKind) -> str:
    """A name, or what a number in digits stands for."""
    known, number = PREPROCESSING[kind], preprocessing_number(name, kind)
    return name if number is None or number >= len(known) else known[number]


def _json_path(name: str) -> str:
    if name in _JSON_PATHS:
        return _JSON_PATHS[name]
    record, _, rest = name.partition(".")
    if record not in ("display", "training"):
        return name
    return f"{record}Information." + re.sub(r"_(\w)", lambda match: match[1].upper(), rest)


class _Reader:
    """One document on its way to a task."""

    def __init__(
        self, document: Mapping[str, object], dialect: str, *, tensor_backend: str, training_config: bytes
    ) -> None:
        display, training = document.get("displayInformation"), document.get("trainingInformation")
        self._problems: list[tuple[str, str]] = []
        self._document = self._fields({"": document})
        self._display = self._fields({"displayInformation": display, "": document})
        summary = self._display.find("summary")
        self._summary = self._fields(
            {"displayInformation.summary": summary, "displayInformation": display, "": document}
        )
        inside = training if isinstance(training, Mapping) else {}
        nested = ("privacy", "privacyParameters", "modelCompileData", "modelTrainData")
        self._training = self._fields(
            {"trainingInformation": training}
            | {f"trainingInformation.{name}": inside.get(name) for name in nested}
            | {"": document}
            | {name: document.get(name) for name in nested}
        )
        self._compiled = _compiled(training_config)
        self._tensor_backend = tensor_backend
        self._is_g21 = _is_g21(document, dialect)

    def task(self, pinned_dialect: str) -> Task:
        """Raises InvalidTask with everything that is wrong, InvalidId where only the id is."""
        scheme, kind = self._scheme(), self._data_kind()
        display = self._built(DisplayInformation, "display", self._display_information())
        training = self._built(TrainingInformation, "training", self._training_information(kind))
        policy, task_id, refusal = self._policy(scheme), TaskId("-"), None
        try:
            task_id = valid_task_id(self._id())
        except InvalidId as error:
            refusal = InvalidId(**error.variables, path=self._id_path())
        try:
            gate = self._norm_gate()
            task = Task(
                task_id,
                scheme,
                kind,
                display=display,
                training=training,
                policy=policy,
                aggregation=self._aggregation(),
                norm_gate=gate,
                pinned_dialect=self._pinned(pinned_dialect),
            )
        except InvalidTask as error:
            self._problems += error.problems
        if self._problems:
            if refusal is not None:
                self._problems.insert(0, (self._id_path(), "is not 1 to 128 of A-Z, a-z, 0-9, '_', '.', '-'"))
            raise InvalidTask(problems=self._problems)
        if refusal is not None:
            raise refusal
        return task

    def _fields(self, places: Mapping[str, object]) -> Fields:
        return Fields(places, self._problems)

    def _built(self, record: type[_Record], path: str, values: dict[str, Any]) -> _Record:
        """The record; where fields are wrong, with others in their place, so that the rest can be looked at."""
        try:
            return record(**values)
        except InvalidTask as refusal:
            self._problems += refusal.problems
            for name in {name.removeprefix(f"{path}.").partition(".")[0] for name, _ in refusal.problems}:
                values.pop(name)
                if name in _IN_PLACE:
                    values[name] = _IN_PLACE[name]
            values.pop("round_duration_epochs", None)  # it must divide the number of epochs, which may be another now
            return record(**values)

    def _id_path(self) -> str:
        names = ("id", "taskID", "taskId")
        is_inside = self._document.find(*names) is None and self._training.find(*names) is not None
        return (self._training if is_inside else self._document).path(*names)

    def _id(self) -> str:
        """The id; where the form sent none, the title as one."""
        given = self._document.text("id", "taskID", "taskId") or self._training.text("id", "taskID", "taskId")
        return given or re.sub(r"[^A-Za-z0-9_.-]+", "_", self._title()).strip("_")[:128]

    def _title(self) -> str:
        return self._display.text("taskTitle", "title") or self._document.text("id", "taskID", "taskId")

    def _scheme(self) -> Scheme:
        name = self._training.text("scheme").strip().lower() or "federated"
        if name not in {scheme.value for scheme in Scheme}:
            self._problems.append((self._training.path("scheme"), "is not federated, decentralized or local"))
            return Scheme.FEDERATED
        return Scheme(name)

    def _data_kind(self) -> DataKind:
        """The kind; of a label such as "Image (.png, .jpg)" the first word."""
        label = re.match(r"\s*(\w*)", self._training.text("dataType"))
        name = label[1].lower() if label else ""
        if not name:
            name = "image" if self._training.find("IMAGE_H") is not None else "tabular"
        if name not in {kind.value for kind in DataKind}:
            self._problems.append((self._training.path("dataType"), "is not image, tabular or text"))
            return DataKind.TEXT
        return DataKind(name)

    def _display_information(self) -> dict[str, Any]:
        display = self._display
        summary = self._display.find("summary")
        example = tuple(
            DataExample(cell.text("columnName", "name"), cell.text("columnData", "data"))
            for cell in display.objects("dataExample")
        )
        sample = self._fields({"displayInformation.sampleDataset": display.find("sampleDataset")})
        return {
            "title": self._title(),
            "preview": summary if isinstance(summary, str) else self._summary.text("preview"),
            "overview": self._summary.text("overview"),
            "tradeoffs": display.text("tradeoffs"),
            "limitations": display.text("limitations"),
            "model": _text_only(display.find("model")),
            "data_format": display.text("dataFormatInformation"),
            "data_example_text": display.text("dataExampleText"),
            "data_example_image": _absolute(display.text("dataExampleImage")),
            "data_example": example,
            "headers": display.texts("headers"),
            "sample_dataset_link": _absolute(display.text("sampleDatasetLink") or sample.text("link")),
            "sample_dataset_instructions": display.text("sampleDatasetInstructions") or sample.text("instructions"),
        }

    def _training_information(self, kind: DataKind) -> dict[str, Any]:
        training, epochs = self._training, self._required("epochs")
        batches, rounds = self._round_durations(epochs)
        compiled = self._compiled
        return {
            "epochs": epochs,
            "batch_size": self._required("batchSize"),
            "validation_split": training.number("validationSplit") or 0.0,
            "round_duration_batches": batches,
            "round_duration_epochs": rounds,
            "tensor_backend": training.text("tensorBackend") or self._tensor_backend,
            "model_id": _text_only(training.find("modelID", "modelId")),
            "input_columns": training.texts("inputColumns"),
            "output_columns": training.texts("outputColumns", "outputColumn"),
            "image_height": training.whole("IMAGE_H") or 0,
            "image_width": training.whole("IMAGE_W") or 0,
            "labels": training.texts("LABEL_LIST"),
            "preprocessing": self._preprocessing(kind),
            "optimizer": training.text("optimizer") or compiled.optimizer or "sgd",
            "loss": training.text("loss") or compiled.loss or "meanSquaredError",
            "metrics": training.texts("metrics") or compiled.metrics or ("accuracy",),
            "learning_rate": training.number("learningRate"),
            "model_url": _absolute(training.text("modelURL")),
            "tokenizer": _text_only(training.find("tokenizer")),
            "max_sequence_length": training.whole("maxSequenceLength", "contextLength") or 0,
            "clipping_radius": training.number("clippingRadius"),
            "noise_scale": training.number("noiseScale"),
            "secure_aggregation": self._secure(),
            "max_share_value": training.number("maxShareValue"),
            "byzantine_robust": training.flag("byzantineRobustAggregator")
            or training.find("aggregationStrategy") == "byzantine",
            "tau_percentile": training.number("tauPercentile"),
        }

    def _required(self, name: str) -> int:
        value = self._training.whole(name)
        if value is None:
            if self._training.find(name) is None:
                self._problems.append((self._training.path(name), "is missing"))
            return 1
        return value

    def _round_durations(self, epochs: int) -> tuple[int, int]:
        """In batches and in epochs: one is what was given, the other its default. Epochs are made to divide."""
        given = self._training.whole("roundDuration")
        if self._is_g21:
            return given or 10, 1
        wanted = max(1, min(given or 1, epochs))
        if epochs % wanted == 0:
            return 10, wanted
        # Divisors come in pairs, one of each at most the square root.
        pairs = ((divisor, epochs // divisor) for divisor in range(1, math.isqrt(epochs) + 1) if epochs % divisor == 0)
        return 10, max(divisor for pair in pairs for divisor in pair if divisor <= wanted)

    def _preprocessing(self, kind: DataKind) -> tuple[str, ...]:
        """Names as they are, numbers by what they stand for; a number that stands for nothing here is its own name."""
        given = self._training.find("preprocessingFunctions")
        if not isinstance(given, list):
            return tuple(_named(name, kind) for name in self._training.texts("preprocessingFunctions"))
        path = self._training.path("preprocessingFunctions")
        names = []
        for index, item in enumerate(given):
            is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
            if not isinstance(item, str) and not (is_number and item in range(MAX_PREPROCESSING_NUMBER + 1)):
                problem = f"is neither a name nor a whole number from 0 to {MAX_PREPROCESSING_NUMBER}"
                self._problems.append((f"{path}[{index}]", problem))
                return ()
            names.append(_named(item if isinstance(item, str) else str(int(item)), kind))
        return tuple(names)

    def _secure(self) -> bool:
        """`decentralizedSecure` decides where the generation heeds it; later ones look at the aggregator alone."""
        chosen = self._training.find("aggregator", "aggregationStrategy")
        if chosen is not None:
            return chosen in ("secure", 1) and not isinstance(chosen, bool)
        return self._is_g21 and self._training.flag("decentralizedSecure")

    def _norm_gate(self) -> NormGate | None:
        try:
            return read_norm_gate(self._document.find("norm_gate", "normGate"))
        except InvalidTask as refusal:
            self._problems += refusal.problems
            return None

    def _pinned(self, shape: str) -> str:
        return self._document.text(*_PIN) if self._document.names(*_PIN) else shape

    def _aggregation(self) -> Aggregation | None:
        document = self._document.find("aggregation")
        try:
            return None if document is None else read_aggregation(document)
        except InvalidTask as refusal:
            self._problems += refusal.problems
            return None

    def _policy(self, scheme: Scheme) -> Policy:
        names = ("minNbOfParticipants", "minimumReadyPeers")
        minimum = self._training.whole(*names)
        if (document := self._document.find("policy")) is not None:
            try:
                return read_policy(document, min_participants=_DEFAULT_MINIMUM[scheme] if minimum is None else minimum)
            except InvalidTask as refusal:
                self._problems += refusal.problems
                return Policy()
        try:
            return Policy(min_participants=_DEFAULT_MINIMUM[scheme] if minimum is None else minimum)
        except InvalidPolicy as refusal:
            self._problems.append((self._training.path(*names), refusal.variables["problem"]))
            return Policy()


def _is_g21(document: Mapping[str, object], dialect: str) -> bool:
    """Whether rounds are counted in batches. The name of the id tells; the hint only where it does not."""
    later, g21 = document.get("id") is not None, document.get("taskID") is not None
    if later != g21:
        return g21
    return dialect == "g21" or (dialect not in ("g22", "g30", "gdv") and not later)


class _Compiled(NamedTuple):
    """How a model is compiled, in the words of modelCompileData; empty where nothing was said."""

    optimizer: str = ""
    loss: str = ""
    metrics: tuple[str, ...] = ()


def _compiled(training_config_json: bytes) -> _Compiled:
    """What a model's training configuration says."""
    config = json.loads(training_config_json) if training_config_json else None
    if not isinstance(config, Mapping):
        return _Compiled()
    optimizer = Fields({"trainingConfig.optimizer_config": config.get("optimizer_config")})
    metrics = config.get("metrics")
    return _Compiled(
        _text_only(optimizer.find("class_name")).lower(),
        _camel_case(_text_only(config.get("loss"))),
        tuple(_camel_case(_text_only(metric)) for metric in metrics) if isinstance(metrics, list) else (),
    )


def _camel_case(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def _text_only(value: object) -> str:
    """Fields that other generations fill with something else than a text."""
    return value if isinstance(value, str) else ""


def _absolute(url: str) -> str:
    """An absolute URL; a relative one, which only some clients could use, is left out."""
    return url if re.match(r"https?://", url) else ""
