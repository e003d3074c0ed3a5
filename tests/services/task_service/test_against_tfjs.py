"""What the task service says of a model is held against TF.js itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

from blobstore.records import Model
from learning.refusals import InvalidModel
from services.task_service.default_tasks import DEFAULT_TASKS
from services.task_service.initializers import weights_of
from services.task_service.topology.weights import weights_of_topology
from tests.services.task_service import topologies
from tests.services.task_service.tasks import prepare
from tests.services.task_service.tfjs import TFJS, Answer, Question, installed

TFJS_DEFAULTS = [task_id for task_id, build in DEFAULT_TASKS.items() if build().kind == "tfjs"]
RANDOM = 60
REFUSED = {
    "no such class": topologies.sequential(topologies.layer("Subtract", "x"), shape=[3]),
    "Lambda": topologies.sequential(topologies.layer("Lambda", "x", function="code"), shape=[3]),
    "no such activation": topologies.sequential(topologies.layer("Dense", "x", units=1, activation="silu"), shape=[3]),
    "no such initializer": topologies.sequential(
        topologies.layer("Dense", "x", units=1, kernel_initializer={"class_name": "LecunNormal2", "config": {}}),
        shape=[3],
    ),
    "reset_after": topologies.sequential(topologies.layer("GRU", "x", units=1, reset_after=True), shape=[3, 3]),
    "open channels": topologies.sequential(
        topologies.layer("Conv2D", "x", filters=1, kernel_size=[1, 1]), shape=[3, 3, None]
    ),
    "open flatten": topologies.sequential(topologies.layer("Flatten", "x"), topologies.dense("d"), shape=[None, 3]),
    "no input shape": {"class_name": "Sequential", "config": {"name": "s", "layers": [topologies.dense("d")]}},
    "a negative axis in a list": topologies.sequential(
        topologies.layer("BatchNormalization", "bn", axis=[-1]), shape=[3]
    ),
    "shapes that do not fit": topologies.functional(
        [
            topologies.entry("in", 3),
            topologies.node(topologies.dense("d", 4), ["in"]),
            topologies.node(topologies.layer("Add", "add"), ["in", "d"]),
        ],
        inputs=["in"],
        outputs=["add"],
    ),
    "an input that is not given": topologies.functional(
        [topologies.entry("a", 3), topologies.entry("b", 3), topologies.node(topologies.dense("d"), ["b"])],
        inputs=["a"],
        outputs=["d"],
    ),
}


def _questions() -> list[Question]:
    questions = []
    for task_id in TFJS_DEFAULTS:
        default = DEFAULT_TASKS[task_id]()
        model, values = prepare(default.task, Model("tfjs", default.topology_json, ()), None, max_bytes=100 << 20)
        specs = [(spec.name, spec.shape) for spec in model.weight_specs]
        training = json.loads(model.training_config_json)
        topology = json.loads(model.topology_json)
        questions.append(Question(task_id, topology, specs, values.tobytes(), training))
        questions.append(Question(f"{task_id} alone", topology))
    for name, build in topologies.NAMED.items():
        questions.append(Question(name, build(), *_weights(build())))
        questions.append(Question(f"{name} alone", build()))
    questions.append(Question("wrapped", {"model_config": topologies.keras_like()}))
    questions += [Question(f"random {seed}", topologies.wired_at_random(seed)) for seed in range(RANDOM)]
    questions += [Question(name, topology) for name, topology in REFUSED.items()]
    return questions


def _weights(topology: topologies.Topology) -> tuple[list[tuple[str, tuple[int, ...]]], bytes]:
    weights = weights_of_topology(topologies.text(topology))
    values = b"".join(weights_of(each.initializer, each.shape, seed=each.name).tobytes() for each in weights)
    return [(each.name, each.shape) for each in weights], values


def _derived(topology: topologies.Topology) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(each.name, each.shape, each.trainable) for each in weights_of_topology(topologies.text(topology))]


@pytest.fixture(scope="module")
def tfjs(pytestconfig: pytest.Config) -> TFJS:
    assert pytestconfig.cache is not None, "TF.js is kept in pytest's cache"
    return installed(pytestconfig.cache.mkdir("disco-tfjs"))


@pytest.fixture(scope="module")
def answers(tfjs: TFJS) -> dict[str, Answer]:
    return tfjs.ask(_questions())


@pytest.mark.parametrize("task_id", TFJS_DEFAULTS)
def test_tfjs_has_the_weights_of_a_default_task_in_our_order(task_id: str, answers: dict[str, Answer]) -> None:
    alone = answers[f"{task_id} alone"]
    assert alone.error == ""
    assert alone.weights == _derived(json.loads(DEFAULT_TASKS[task_id]().topology_json))


@pytest.mark.parametrize("task_id", TFJS_DEFAULTS)
def test_tfjs_loads_a_default_task_with_our_bytes_and_compiles_it(task_id: str, answers: dict[str, Answer]) -> None:
    default = DEFAULT_TASKS[task_id]()
    _, values = prepare(default.task, Model("tfjs", default.topology_json, ()), None, max_bytes=100 << 20)
    loaded = answers[task_id]
    assert loaded.error == ""
    assert loaded.values == values.tobytes()
    assert loaded.compiled is not None
    assert loaded.compiled["optimizer"].lower() == default.task.training.optimizer
    assert loaded.compiled["loss"] == default.task.training.loss


@pytest.mark.parametrize("name", topologies.NAMED)
def test_tfjs_has_the_weights_of_every_layer_class_in_our_order(name: str, answers: dict[str, Answer]) -> None:
    assert answers[f"{name} alone"].error == ""
    assert answers[f"{name} alone"].weights == _derived(topologies.NAMED[name]())


@pytest.mark.parametrize("name", topologies.NAMED)
def test_tfjs_gives_back_the_very_bytes_of_our_weights(name: str, answers: dict[str, Answer]) -> None:
    assert answers[name].error == ""
    assert answers[name].values == _weights(topologies.NAMED[name]())[1]


def test_tfjs_and_we_read_a_wrapped_topology_alike(answers: dict[str, Answer]) -> None:
    assert answers["wrapped"].weights == _derived({"model_config": topologies.keras_like()})


@pytest.mark.parametrize("seed", range(RANDOM))
def test_tfjs_has_the_weights_of_a_randomly_wired_model_in_our_order(seed: int, answers: dict[str, Answer]) -> None:
    answer = answers[f"random {seed}"]
    topology = topologies.wired_at_random(seed)
    if answer.error or not answer.weights:
        with pytest.raises(InvalidModel):
            weights_of_topology(topologies.text(topology))
    else:
        assert answer.weights == _derived(topology)


@pytest.mark.parametrize("name", REFUSED)
def test_what_tfjs_cannot_load_is_refused(name: str, answers: dict[str, Answer]) -> None:
    assert answers[name].error != ""
    with pytest.raises(InvalidModel):
        weights_of_topology(topologies.text(REFUSED[name]))


def test_our_initial_weights_are_spread_like_those_of_tfjs(answers: dict[str, Answer]) -> None:
    ours = np.frombuffer(answers["simple_face"].values, dtype="<f4")
    theirs = np.frombuffer(answers["simple_face alone"].values, dtype="<f4")
    start = 0
    for _, shape, _ in answers["simple_face"].weights:
        size = int(np.prod(shape))
        mine, others = ours[start : start + size], theirs[start : start + size]
        start += size
        if size > 20_000:
            assert abs(mine.std() / others.std() - 1) < 0.03
            assert abs(np.abs(mine).max() / np.abs(others).max() - 1) < 0.01
