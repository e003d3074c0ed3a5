from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from blobstore.records import Model
from learning.task import DataKind, Scheme
from services.task_service.default_tasks import DEFAULT_TASKS, DefaultTask
from services.task_service.topology.weights import weights_of_topology
from tests.services.task_service.tasks import prepare

SIZES = {
    # task id: tensors, trainable ones among them, weights
    "titanic": (8, 8, 10_857),
    "mnist": (8, 8, 55_386),
    "lus_covid": (6, 6, 19_314),
    "cifar10": (137, 83, 221_114),
    "simple_face": (264, 160, 1_724_002),
    "geotags": (137, 2, 254_524),
    "digits": (4, 4, 2_410),
}

DIGESTS = {
    "titanic": "46cc4c382cc21743",
    "mnist": "56571a0d028d596b",
    "lus_covid": "10504f35691f5fd4",
    "cifar10": "1206af5ec4823fdb",
    "simple_face": "839f8646468c012b",
    "geotags": "aef8c55609e95247",
    "llm_task": "b08a88c737c3d1ce",
    "digits": "d82b54b530a53069",
}


def _prepared(default: DefaultTask) -> tuple[Model, bytes]:
    model, values = prepare(default.task, Model(default.kind, default.topology_json, ()), None, max_bytes=100 << 20)
    return model, values.tobytes()


@pytest.mark.parametrize("task_id", SIZES)
def test_a_default_model_has_as_many_weights_as_the_clients_count(task_id: str) -> None:
    weights = weights_of_topology(DEFAULT_TASKS[task_id]().topology_json)
    trainable = sum(weight.trainable for weight in weights)
    assert (len(weights), trainable, sum(math.prod(weight.shape) for weight in weights)) == SIZES[task_id]


@pytest.mark.parametrize("task_id", DEFAULT_TASKS)
def test_version_0_of_a_default_task_has_the_same_bytes_everywhere(task_id: str) -> None:
    _, weights = _prepared(DEFAULT_TASKS[task_id]())
    assert hashlib.sha256(weights).hexdigest()[:16] == DIGESTS[task_id]


@pytest.mark.parametrize("task_id", DEFAULT_TASKS)
def test_a_default_task_says_of_itself_what_its_model_is(task_id: str) -> None:
    default = DEFAULT_TASKS[task_id]()
    model, _ = _prepared(default)
    task = default.task
    assert task.task_id == task_id
    assert task.training.tensor_backend == default.kind
    first, last = model.weight_specs[0].shape, model.weight_specs[-1].shape
    if task.data_kind is DataKind.TABULAR:
        assert first[0] == len(task.training.input_columns)
        assert last[-1] == len(task.training.output_columns)
    if task.data_kind is DataKind.IMAGE:
        head = next(spec for spec in reversed(model.weight_specs) if len(spec.shape) == 2)
        assert head.shape[-1] == len(task.training.labels)
    if default.kind == "tfjs":
        assert json.loads(model.training_config_json)["loss"] == task.training.loss


def test_peers_are_three_and_federated_participants_two() -> None:
    for build in DEFAULT_TASKS.values():
        task = build().task
        wanted = (3, 8.0) if task.scheme is Scheme.DECENTRALIZED else (2, 10.0)
        assert (task.policy.min_participants, task.policy.deadline_s) == wanted
    assert [task_id for task_id, build in DEFAULT_TASKS.items() if build().task.scheme is Scheme.DECENTRALIZED] == [
        "mnist",
        "cifar10",
    ]


def test_the_gpt_starts_with_embeddings_of_zero() -> None:
    model, weights = _prepared(DEFAULT_TASKS["llm_task"]())
    embeddings = sum(spec.size for spec in model.weight_specs[:2])
    assert not np.frombuffer(weights, "<f4")[:embeddings].any()
    assert np.frombuffer(weights, "<f4")[embeddings:].any()


def test_digits_fits_a_classifier_of_scikit_learn_tensor_by_tensor() -> None:
    data, target = load_digits(return_X_y=True)
    classifier = MLPClassifier(hidden_layer_sizes=(32,)).partial_fit(data / 16, target, classes=range(10))
    tensors = [tensor for layer in zip(classifier.coefs_, classifier.intercepts_, strict=True) for tensor in layer]
    model, weights = _prepared(DEFAULT_TASKS["digits"]())
    assert [spec.shape for spec in model.weight_specs] == [tensor.shape for tensor in tensors]

    values = np.frombuffer(weights, "<f4")
    classifier.coefs_ = [values[:2048].reshape(64, 32), values[2080:2400].reshape(32, 10)]
    classifier.intercepts_ = [values[2048:2080], values[2400:]]
    assert classifier.predict_proba(data / 16).shape == (len(data), 10)
