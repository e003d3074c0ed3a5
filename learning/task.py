"""The neutral task record: what is to be learned, in the words of no client generation.

Field for field the same as disco.task.v1.Task (`rpc.task_messages` converts
between the two); validated at construction. It knows no rendering: those live in
`gateway.dialects`. The rules are those of protocol sections 5.1 to 5.6, the
strictest generation's wherever they differ, so that every client's validator
accepts every rendering.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum

from learning.aggregation import Aggregation, AggregationRule
from learning.ids import TaskId, valid_id
from learning.norm_gate import NormGate
from learning.policy import Policy
from learning.refusals import InvalidTask

MAX_TEXT = 16 * 1024
MAX_ITEMS = 4096
PINNED_DIALECTS = ("g21", "g22", "g30", "gdv")
"""What a task may be pinned to: the names of all dialects that can be spoken (`gateway.dialects.registry`)."""


class Scheme(Enum):
    """How the participants learn together."""

    FEDERATED = "federated"
    DECENTRALIZED = "decentralized"
    LOCAL = "local"


class DataKind(Enum):
    """What a participant's data is."""

    IMAGE = "image"
    TABULAR = "tabular"
    TEXT = "text"


class _Problems(list[tuple[str, str]]):
    """What is wrong with a record: all of it, so that whoever mends it need not come back for every field."""

    def check(self, holds: bool, name: str, problem: str) -> None:
        if not holds:
            self.append((name, problem))

    def texts(self, record: object, path: str) -> None:
        """Bounds every string and every tuple of strings of a record."""
        for name in record.__dataclass_fields__:  # type: ignore[attr-defined]
            value = getattr(record, name)
            texts = value if isinstance(value, tuple) else (value,)
            self.check(len(texts) <= MAX_ITEMS, f"{path}.{name}", f"has more than {MAX_ITEMS} entries")
            is_long = any(isinstance(text, str) and len(text) > MAX_TEXT for text in texts)
            self.check(not is_long, f"{path}.{name}", f"is longer than {MAX_TEXT}")

    def url(self, url: str, name: str) -> None:
        holds = not url or re.fullmatch(r"https?://[^\s/]+(/\S*)?", url) is not None
        self.check(holds, name, "is not an absolute http(s) URL")

    def positive(self, value: float | None, name: str) -> None:
        self.check(value is None or (math.isfinite(value) and value > 0), name, "must be above 0")

    def refuse(self) -> None:
        """Raises InvalidTask where there are any."""
        if self:
            raise InvalidTask(problems=dict.fromkeys(self))


@dataclass(frozen=True, slots=True)
class DataExample:
    """One column of an example row."""

    column_name: str
    column_value: str


@dataclass(frozen=True, slots=True)
class DisplayInformation:
    """What people are told. An empty text means absent; the title is required. Raises InvalidTask."""

    title: str
    preview: str = ""
    overview: str = ""
    tradeoffs: str = ""
    limitations: str = ""
    model: str = ""
    data_format: str = ""
    data_example_text: str = ""
    data_example_image: str = ""
    data_example: tuple[DataExample, ...] = ()
    headers: tuple[str, ...] = ()
    sample_dataset_link: str = ""
    sample_dataset_instructions: str = ""

    def __post_init__(self) -> None:
        problems = _Problems()
        problems.check(bool(self.title.strip()), "display.title", "is missing")
        problems.texts(self, "display")
        for column in self.data_example:
            problems.texts(column, "display.data_example")
        problems.url(self.data_example_image, "display.data_example_image")
        problems.url(self.sample_dataset_link, "display.sample_dataset_link")
        problems.refuse()


@dataclass(frozen=True, slots=True)
class TrainingInformation:
    """How participants train; each field as in disco.task.v1.TrainingInformation. Raises InvalidTask."""

    epochs: int
    batch_size: int
    validation_split: float = 0.0
    round_duration_batches: int = 10
    round_duration_epochs: int = 1
    tensor_backend: str = "tfjs"
    model_id: str = ""
    input_columns: tuple[str, ...] = ()
    output_columns: tuple[str, ...] = ()
    image_height: int = 0
    image_width: int = 0
    labels: tuple[str, ...] = ()
    preprocessing: tuple[str, ...] = ()
    optimizer: str = "sgd"
    loss: str = "meanSquaredError"
    metrics: tuple[str, ...] = ("accuracy",)
    learning_rate: float | None = None
    model_url: str = ""
    tokenizer: str = ""
    max_sequence_length: int = 0
    clipping_radius: float | None = None
    noise_scale: float | None = None
    secure_aggregation: bool = False
    max_share_value: float | None = None
    byzantine_robust: bool = False
    tau_percentile: float | None = None

    def __post_init__(self) -> None:
        problems = _Problems()
        problems.texts(self, "training")
        for name in ("epochs", "batch_size", "round_duration_batches", "round_duration_epochs"):
            problems.check(1 <= getattr(self, name) <= 2**31 - 1, f"training.{name}", "must be at least 1")
        problems.check(
            self.round_duration_epochs < 1 or self.epochs % self.round_duration_epochs == 0,
            "training.round_duration_epochs",
            f"must divide the number of epochs ({self.epochs})",
        )
        problems.check(0 <= self.validation_split < 1, "training.validation_split", "must be at least 0 and below 1")
        problems.check(self.tensor_backend in ("tfjs", "gpt"), "training.tensor_backend", 'must be "tfjs" or "gpt"')
        for name in ("learning_rate", "clipping_radius", "max_share_value"):
            problems.positive(getattr(self, name), f"training.{name}")
        problems.check(
            self.noise_scale is None or (math.isfinite(self.noise_scale) and self.noise_scale >= 0),
            "training.noise_scale",
            "must be at least 0",
        )
        problems.check(
            self.tau_percentile is None or 0 < self.tau_percentile < 1,
            "training.tau_percentile",
            "must be above 0 and below 1",
        )
        problems.url(self.model_url, "training.model_url")
        problems.refuse()


@dataclass(frozen=True, slots=True)
class Task:
    """One task. Raises InvalidTask, InvalidId."""

    task_id: TaskId
    scheme: Scheme
    data_kind: DataKind
    display: DisplayInformation
    training: TrainingInformation
    policy: Policy = field(default_factory=Policy)
    aggregation: Aggregation | None = None
    """None: nothing was said; `aggregation_in_force` is what holds then."""
    norm_gate: NormGate | None = None
    """None: however far a contribution changes the model, it is admitted."""
    pinned_dialect: str = ""
    """What is spoken about this task with clients that show no sign of their generation; empty: nothing was said."""

    def __post_init__(self) -> None:
        valid_id(self.task_id, "task")
        training, problems = self.training, _Problems()
        problems.check(
            self.scheme is Scheme.FEDERATED or self.aggregation_in_force.rule is AggregationRule.MEAN,
            "aggregation.rule",
            "can be chosen in a federated task only: elsewhere the server does not aggregate",
        )
        problems.check(
            self.scheme is Scheme.FEDERATED or self.aggregation_in_force.privacy is None,
            "aggregation.privacy",
            "can be asked for in a federated task only: elsewhere the server sees no contributions",
        )
        problems.check(
            self.pinned_dialect in ("", *PINNED_DIALECTS),
            "pinned_dialect",
            f"must be one of {', '.join(PINNED_DIALECTS)}, or empty",
        )
        gated = self.norm_gate is not None
        problems.check(
            not gated or self.scheme is Scheme.FEDERATED, "norm_gate", "can be asked for in a federated task only"
        )
        problems.check(
            not gated or self.aggregation_in_force.privacy is None,
            "norm_gate",
            "cannot be combined with privacy: whom it refuses tells about the others what is not accounted for, and "
            "changes are clipped anyway",
        )
        if self.data_kind is DataKind.TABULAR:
            problems.check(bool(training.input_columns), "training.input_columns", "are required for tabular data")
            problems.check(bool(training.output_columns), "training.output_columns", "are required for tabular data")
        if self.data_kind is DataKind.IMAGE:
            problems.check(training.image_height > 0, "training.image_height", "is required for images")
            problems.check(training.image_width > 0, "training.image_width", "is required for images")
        problems.refuse()

    @property
    def aggregation_in_force(self) -> Aggregation:
        """What the server makes of the contributions of a round."""
        if self.aggregation is not None:
            return self.aggregation
        if self.scheme is Scheme.FEDERATED and self.training.byzantine_robust:
            return Aggregation(AggregationRule.CENTERED_CLIPPING, radius_quantile=self.training.tau_percentile)
        return Aggregation()

    @property
    def model_id(self) -> str:
        """Name of the model, filled in where the record has none."""
        return self.training.model_id or f"{self.task_id}-model"
