"""Between the task record and its message."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from enum import Enum
from typing import Any

import pytest
from disco.task.v1 import policy_pb2, task_pb2
from hypothesis import given
from hypothesis import strategies as st

from learning.aggregation import DEFAULTS, Aggregation, AggregationRule
from learning.ids import TaskId
from learning.norm_gate import NormGate
from learning.policy import Policy
from learning.presets import Preset, policy_of
from learning.refusals import InvalidId, InvalidPolicy, InvalidTask
from learning.task import DataExample, DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from rpc.task_messages import policy_from_proto, policy_to_proto, task_from_proto, task_to_proto

RECORDS: list[tuple[type[Any], Any, dict[str, str], set[str]]] = [
    (Task, task_pb2.Task, {}, {"create_time", "revision"}),
    (DisplayInformation, task_pb2.DisplayInformation, {}, set()),
    (DataExample, task_pb2.DataExample, {}, set()),
    (TrainingInformation, task_pb2.TrainingInformation, {}, set()),
    (Policy, policy_pb2.Policy, {"deadline_s": "deadline"}, {"preset"}),
    (Aggregation, task_pb2.Aggregation, {}, set()),
    (NormGate, task_pb2.NormGate, {}, set()),
]

texts = st.text(max_size=20)
text_lists = st.lists(texts, max_size=4).map(tuple)
urls = st.sampled_from(["", "https://example.org", "http://example.org/a?b#c"])
above_zero = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
counts = st.integers(1, 2**31 - 1)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


displays = st.builds(
    DisplayInformation,
    title=st.text(min_size=1, max_size=20).filter(str.strip),
    **dict.fromkeys(
        ("preview", "overview", "tradeoffs", "limitations", "model", "data_format", "data_example_text"), texts
    ),
    data_example_image=urls,
    data_example=st.lists(st.builds(DataExample, texts, texts), max_size=3).map(tuple),
    headers=text_lists,
    sample_dataset_link=urls,
    sample_dataset_instructions=texts,
)

trainings = counts.flatmap(
    lambda round_epochs: st.builds(
        TrainingInformation,
        epochs=st.integers(1, (2**31 - 1) // round_epochs).map(lambda rounds: rounds * round_epochs),
        round_duration_epochs=st.just(round_epochs),
        batch_size=counts,
        validation_split=st.floats(0, 1, exclude_max=True),
        round_duration_batches=counts,
        tensor_backend=st.sampled_from(["tfjs", "gpt"]),
        model_id=texts,
        input_columns=st.lists(texts, min_size=1, max_size=4).map(tuple),
        output_columns=st.lists(texts, min_size=1, max_size=4).map(tuple),
        image_height=st.integers(1, 2**32 - 1),
        image_width=st.integers(1, 2**32 - 1),
        labels=text_lists,
        preprocessing=text_lists,
        # Empty is absent in a message: these three would come back as their defaults.
        optimizer=st.text(min_size=1, max_size=20),
        loss=st.text(min_size=1, max_size=20),
        metrics=st.lists(texts, min_size=1, max_size=4).map(tuple),
        learning_rate=maybe(above_zero),
        model_url=urls,
        tokenizer=texts,
        max_sequence_length=st.integers(0, 2**32 - 1),
        clipping_radius=maybe(above_zero),
        noise_scale=maybe(st.floats(0, allow_infinity=False, allow_nan=False)),
        secure_aggregation=st.booleans(),
        max_share_value=maybe(above_zero),
        byzantine_robust=st.booleans(),
        tau_percentile=maybe(st.floats(0, 1, exclude_min=True, exclude_max=True)),
    )
)

quorums = st.fixed_dictionaries(
    {"quorum_share": st.floats(0, 1, exclude_min=True), "quorum_count": st.none()}
) | st.fixed_dictionaries({"quorum_share": st.none(), "quorum_count": st.integers(1, 1000)})

policies = st.builds(
    lambda quorum, **numbers: Policy(**quorum, **numbers),
    quorum=quorums,
    min_participants=st.integers(1, 1000),
    deadline_s=st.integers(1, 30 * 24 * 3600 * 1000).map(lambda milliseconds: milliseconds / 1000),
    staleness_weights=st.lists(st.integers(1, 1000), min_size=1, max_size=64).map(
        lambda weights: tuple(sorted(weights, reverse=True))
    ),
    max_total_weight=st.integers(2**20, 2**40),
    max_samples=maybe(st.just(1)),
)

aggregations = st.sampled_from(AggregationRule).flatmap(
    lambda rule: st.builds(
        Aggregation, rule=st.just(rule), **{name: maybe(st.just(value)) for name, value in DEFAULTS[rule].items()}
    )
)

tasks = st.builds(
    lambda scheme, aggregation, norm_gate, **rest: Task(
        scheme=scheme,
        aggregation=aggregation if scheme is Scheme.FEDERATED else None,
        norm_gate=norm_gate if scheme is Scheme.FEDERATED else None,
        **rest,
    ),
    task_id=st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True).map(TaskId),
    scheme=st.sampled_from(Scheme),
    aggregation=maybe(aggregations),
    data_kind=st.sampled_from(DataKind),
    display=displays,
    training=trainings,
    policy=policies,
    norm_gate=maybe(st.builds(NormGate, quantile=st.floats(0.1, 1), min_history=st.integers(1, 256))),
)


def smallest(**changes: Any) -> task_pb2.Task:
    """The message with the fewest fields that is a task."""
    message = task_pb2.Task(
        task_id="titanic",
        scheme=task_pb2.Task.SCHEME_FEDERATED,
        data_kind=task_pb2.Task.DATA_KIND_TEXT,
        display=task_pb2.DisplayInformation(title="Titanic"),
        training=task_pb2.TrainingInformation(epochs=10, batch_size=4),
    )
    message.MergeFrom(task_pb2.Task(**changes))
    return message


@given(tasks)
def test_every_task_comes_back_as_it_was(task: Task) -> None:
    assert task_from_proto(task_pb2.Task.FromString(task_to_proto(task).SerializeToString())) == task


@given(policies, st.sampled_from(Scheme))
def test_every_policy_comes_back_as_it_was_in_every_scheme(policy: Policy, scheme: Scheme) -> None:
    message = policy_pb2.Policy.FromString(policy_to_proto(policy).SerializeToString())
    assert policy_from_proto(message, scheme) == policy


@pytest.mark.parametrize(("record", "message", "renamed", "not_in_record"), RECORDS)
def test_record_and_message_have_the_same_fields(
    record: type[Any], message: Any, renamed: dict[str, str], not_in_record: set[str]
) -> None:
    names = {renamed.get(field.name, field.name) for field in fields(record)}
    assert names == set(message.DESCRIPTOR.fields_by_name) - not_in_record


@pytest.mark.parametrize(
    ("message", "kind", "field"),
    [
        (task_pb2.Task, Scheme, "scheme"),
        (task_pb2.Task, DataKind, "data_kind"),
        (task_pb2.Aggregation, AggregationRule, "rule"),
    ],
)
def test_enums_have_the_same_values(message: Any, kind: type[Enum], field: str) -> None:
    first, *others = [value.name for value in message.DESCRIPTOR.fields_by_name[field].enum_type.values]
    prefix = first.removesuffix("UNSPECIFIED")
    assert [name.removeprefix(prefix) for name in others] == [member.name for member in kind]


def test_what_a_message_leaves_out_is_the_records_default() -> None:
    task = task_from_proto(smallest())
    assert task == Task(
        task_id=TaskId("titanic"),
        scheme=Scheme.FEDERATED,
        data_kind=DataKind.TEXT,
        display=DisplayInformation(title="Titanic"),
        training=TrainingInformation(epochs=10, batch_size=4),
    )
    defaults = {field.name: field.default for field in fields(TrainingInformation) if field.default is not MISSING}
    assert {name: getattr(task.training, name) for name in defaults} == defaults


@pytest.mark.parametrize(
    ("scheme", "number", "fewest"),
    [
        (Scheme.FEDERATED, task_pb2.Task.SCHEME_FEDERATED, 2),
        (Scheme.DECENTRALIZED, task_pb2.Task.SCHEME_DECENTRALIZED, 3),
        (Scheme.LOCAL, task_pb2.Task.SCHEME_LOCAL, 2),
    ],
)
def test_the_fewest_participants_depend_on_the_scheme_where_the_policy_does_not_say(
    scheme: Scheme, number: Any, fewest: int
) -> None:
    assert task_from_proto(smallest(scheme=number)).policy == Policy(min_participants=fewest)
    assert policy_from_proto(policy_pb2.Policy(min_participants=5), scheme).min_participants == 5


def test_a_quorum_by_count_replaces_the_default_share() -> None:
    policy = policy_from_proto(policy_pb2.Policy(quorum_count=7), Scheme.FEDERATED)
    assert policy == Policy(quorum_share=None, quorum_count=7)


def test_the_deadline_is_a_duration() -> None:
    message = policy_to_proto(Policy(deadline_s=0.1))
    assert (message.deadline.seconds, message.deadline.nanos) == (0, 100_000_000)
    assert policy_from_proto(message, Scheme.FEDERATED).deadline_s == 0.1


def test_a_learning_rate_of_zero_is_refused_and_none_is_none() -> None:
    assert task_from_proto(smallest()).training.learning_rate is None
    with pytest.raises(InvalidTask) as caught:
        task_from_proto(smallest(training=task_pb2.TrainingInformation(learning_rate=0)))
    assert caught.value.variables["field"] == "training.learning_rate"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scheme": 99}, "scheme"),
        ({"data_kind": 99}, "data_kind"),
        ({"data_kind": task_pb2.Task.DATA_KIND_TABULAR}, "training.input_columns"),
        ({"data_kind": task_pb2.Task.DATA_KIND_IMAGE}, "training.image_height"),
        ({"training": task_pb2.TrainingInformation(tensor_backend="abacus")}, "training.tensor_backend"),
        ({"training": task_pb2.TrainingInformation(round_duration_epochs=3)}, "training.round_duration_epochs"),
        ({"display": task_pb2.DisplayInformation(sample_dataset_link="nowhere")}, "display.sample_dataset_link"),
    ],
)
def test_an_invalid_task_is_refused_with_the_path_of_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        task_from_proto(smallest(**changes))
    assert caught.value.variables["field"] == field


@pytest.mark.parametrize(
    ("cleared", "field"),
    [
        ("scheme", "scheme"),
        ("data_kind", "data_kind"),
        ("display", "display.title"),
        ("training", "training.epochs"),
    ],
)
def test_a_task_without_what_it_needs_is_refused_with_the_path_of_the_field(cleared: str, field: str) -> None:
    message = smallest()
    message.ClearField(cleared)  # type: ignore[arg-type]
    with pytest.raises(InvalidTask) as caught:
        task_from_proto(message)
    assert caught.value.variables["field"] == field


def test_a_task_without_an_id_is_refused() -> None:
    message = smallest()
    message.ClearField("task_id")
    with pytest.raises(InvalidId):
        task_from_proto(message)


def impossible_policies() -> list[tuple[policy_pb2.Policy, str]]:
    negative, zero, endless = policy_pb2.Policy(), policy_pb2.Policy(), policy_pb2.Policy()
    negative.deadline.seconds = -1
    zero.deadline.SetInParent()
    endless.deadline.seconds = 2**62
    return [
        (negative, "deadline"),
        (zero, "deadline"),
        (endless, "deadline"),
        (policy_pb2.Policy(quorum_share=0), "quorum_share"),
        (policy_pb2.Policy(quorum_share=float("nan")), "quorum_share"),
        (policy_pb2.Policy(quorum_count=0), "quorum_count"),
        (policy_pb2.Policy(staleness_weights=[1, 2]), "staleness_weights"),
        (policy_pb2.Policy(max_total_weight=2**41), "max_total_weight"),
        (policy_pb2.Policy(max_samples=10**12), "max_samples"),
        (policy_pb2.Policy(preset=9), "preset"),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("preset", Preset)
def test_a_preset_says_what_a_message_leaves_out(preset: Preset) -> None:
    named = policy_pb2.Policy(preset=policy_pb2.Policy.Preset.Value(f"PRESET_{preset.name}"))
    assert policy_from_proto(named, Scheme.FEDERATED) == policy_of(preset)
    named.quorum_share, named.max_samples = 0.5, 7
    assert policy_from_proto(named, Scheme.FEDERATED) == policy_of(preset, quorum_share=0.5, max_samples=7)


@pytest.mark.parametrize(("message", "field"), impossible_policies())
def test_an_impossible_policy_is_refused_with_its_path(message: policy_pb2.Policy, field: str) -> None:
    with pytest.raises(InvalidPolicy) as alone:
        policy_from_proto(message, Scheme.FEDERATED)
    assert alone.value.variables["field"] == field
    with pytest.raises(InvalidPolicy) as in_a_task:
        task_from_proto(smallest(policy=message))
    assert in_a_task.value.variables["field"] == f"policy.{field}"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image_height": 2**32}, "training.image_height"),
        ({"max_sequence_length": -1}, "training.max_sequence_length"),
        ({"model_id": "\ud800"}, "training.model_id"),
        ({"labels": ("cat", "\ud800")}, "training.labels"),
    ],
)
def test_what_a_message_cannot_carry_is_refused_with_its_path(change: dict[str, Any], field: str) -> None:
    task = task_from_proto(smallest())
    with pytest.raises(InvalidTask) as caught:
        task_to_proto(replace(task, training=replace(task.training, **change)))
    assert caught.value.variables == {"field": field, "problem": "cannot be sent"}
