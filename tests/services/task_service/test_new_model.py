from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from blobstore.records import Model, WeightSpec
from gateway.dialects import weights_document
from learning.limits import MAX_TENSORS
from learning.refusals import InvalidModel, InvalidTask, InvalidWeights, TooLarge, WeightsNotFinite
from services.task_service import gpt
from services.task_service.new_model import MAX_DESCRIPTION_BYTES
from tests.services.task_service.tasks import SPECS, model, prepare, task
from tests.services.task_service.topologies import dense, keras_like, layer, sequential, text

LIMIT = 1 << 20


def _bytes(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_weights_that_come_in_order_are_kept_as_they_are() -> None:
    kept, values = prepare(task(), model(*SPECS), _bytes(1, 2, 3, 4, 5, 6), max_bytes=LIMIT)
    assert kept.weight_specs == SPECS
    assert values.tobytes() == _bytes(1, 2, 3, 4, 5, 6)


def test_weights_that_come_layer_by_layer_are_brought_into_order() -> None:
    kept, values = prepare(task(), model(SPECS[2], *SPECS[:2]), _bytes(5, 6, 1, 2, 3, 4), max_bytes=LIMIT)
    assert kept.weight_specs == SPECS
    assert values.tobytes() == _bytes(1, 2, 3, 4, 5, 6)


def test_the_name_of_a_cell_within_a_tensors_name_is_let_be() -> None:
    topology = text(sequential(layer("LSTM", "lstm", units=1, use_bias=False), shape=[2, 1]))
    specs = (WeightSpec("lstm/lstm_cell/recurrent_kernel", (1, 4)), WeightSpec("lstm/lstm_cell/kernel", (1, 4)))
    kept, values = prepare(task(), Model("tfjs", topology, specs), _bytes(5, 6, 7, 8, 1, 2, 3, 4), max_bytes=LIMIT)
    assert [spec.name for spec in kept.weight_specs] == ["lstm/kernel", "lstm/recurrent_kernel"]
    assert values.tobytes() == _bytes(1, 2, 3, 4, 5, 6, 7, 8)


def test_weights_are_initialized_where_none_came_the_same_each_time_and_others_for_another_task() -> None:
    kept, values = prepare(task(), model(), None, max_bytes=LIMIT)
    assert kept.weight_specs == SPECS
    assert values[2:].tolist() == [0, 0, 1, 1]
    assert prepare(task(), model(*SPECS), None, max_bytes=LIMIT)[1].tobytes() == values.tobytes()
    assert prepare(task("other"), model(), None, max_bytes=LIMIT)[1].tobytes() != values.tobytes()


@pytest.mark.parametrize(
    ("specs", "problem"),
    [
        (SPECS[:2], "3 tensors, and 2"),
        ((*SPECS[:2], WeightSpec("frozen/kernel", (1, 2))), r"frozen/kernel has the shape \[2, 1\], not \[1, 2\]"),
        ((*SPECS[:2], WeightSpec("frozen/bias", (2, 1))), "no tensor frozen/bias"),
        ((*SPECS[:2], SPECS[0]), "sent twice"),
        ((*SPECS[:2], WeightSpec("kernel", (2, 1))), "no tensor kernel"),
    ],
)
def test_weight_specs_that_are_not_those_of_the_topology_are_refused(
    specs: tuple[WeightSpec, ...], problem: str
) -> None:
    with pytest.raises(InvalidModel, match=problem):
        prepare(task(), model(*specs), _bytes(1, 2, 3, 4, 5, 6), max_bytes=LIMIT)
    with pytest.raises(InvalidModel, match=problem):
        prepare(task(), model(*specs), None, max_bytes=LIMIT)


def test_weights_without_specs_are_refused() -> None:
    with pytest.raises(InvalidModel, match="without weight specs"):
        prepare(task(), model(), _bytes(1, 2, 3, 4, 5, 6), max_bytes=LIMIT)


@pytest.mark.parametrize("size", [0, 20, 23, 28])
def test_weights_of_another_size_than_the_model_are_refused(size: int) -> None:
    with pytest.raises(InvalidWeights, match=f"{size} bytes were announced, 24 belong"):
        prepare(task(), model(*SPECS), bytes(size), max_bytes=LIMIT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_with_the_name_of_their_tensor(bad: float) -> None:
    with pytest.raises(WeightsNotFinite, match="frozen/kernel"):
        prepare(task(), model(SPECS[2], *SPECS[:2]), _bytes(5, bad, 1, 2, 3, 4), max_bytes=LIMIT)


def test_initial_weights_stay_finite_however_large_a_configuration_makes_them() -> None:
    large = dense("d", 1, kernel_initializer={"class_name": "RandomNormal", "config": {"stddev": 1e30, "mean": 1e30}})
    _, values = prepare(task(), Model("tfjs", text(sequential(large, shape=[64])), ()), None, max_bytes=LIMIT)
    assert np.isfinite(values).all()
    too_large = dense("d", 1, kernel_initializer={"class_name": "RandomNormal", "config": {"stddev": 1e31}})
    with pytest.raises(InvalidModel, match="stddev must be a number"):
        prepare(task(), Model("tfjs", text(sequential(too_large, shape=[64])), ()), None, max_bytes=LIMIT)


def test_a_model_over_the_limit_is_refused_before_its_weights_are_made() -> None:
    huge = Model("tfjs", text(sequential(dense("d", 2**31 - 1), dense("e", 2**31 - 1), shape=[2**31 - 1])), ())
    with pytest.raises(TooLarge):
        prepare(task(), huge, None, max_bytes=LIMIT)
    with pytest.raises(TooLarge):
        prepare(task(), model(), None, max_bytes=23)
    prepare(task(), model(), None, max_bytes=24)


def test_a_description_that_would_not_fit_one_message_is_refused() -> None:
    room = MAX_DESCRIPTION_BYTES - len(model().topology_json)
    padded = replace(model(), topology_json=model().topology_json + " " * room)
    with pytest.raises(TooLarge):
        prepare(task(), padded, None, max_bytes=LIMIT)
    prepare(task(), replace(padded, topology_json=padded.topology_json[:-1000]), None, max_bytes=LIMIT)


def test_the_kind_of_the_model_must_be_what_the_task_says() -> None:
    with pytest.raises(InvalidTask, match='must be "tfjs"'):
        prepare(task(tensor_backend="gpt"), model(), None, max_bytes=LIMIT)


def test_a_model_that_comes_uncompiled_is_compiled_as_the_task_says() -> None:
    kept, _ = prepare(task(optimizer="adam", learning_rate=0.5, loss="hinge"), model(), None, max_bytes=LIMIT)
    assert json.loads(kept.training_config_json) == {
        "loss": "hinge",
        "metrics": ["accuracy"],
        "optimizer_config": {
            "class_name": "Adam",
            "config": {"learning_rate": 0.5, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        },
    }


def test_a_training_configuration_that_came_is_kept_to_the_byte() -> None:
    came = '{"loss": "hinge",   "optimizer_config": {"class_name": "SGD", "config": {}}}'
    kept, _ = prepare(task(), replace(model(), training_config_json=came), None, max_bytes=LIMIT)
    assert kept.training_config_json == came


@pytest.mark.parametrize("came", ["[]", "{}", '{"loss": "x"}', '{"optimizer_config": {"class_name": "SGD"}}', "x"])
def test_a_training_configuration_that_says_too_little_is_refused(came: str) -> None:
    with pytest.raises(InvalidModel, match="training configuration"):
        prepare(task(), replace(model(), training_config_json=came), None, max_bytes=LIMIT)


def test_an_optimizer_that_tfjs_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidTask, match=r"training\.optimizer: must be one of sgd"):
        prepare(task(optimizer="lion"), model(), None, max_bytes=LIMIT)


def _gpt(**config: object) -> Model:
    return Model("gpt", json.dumps({"vocabSize": 5, "blockSize": 3, "nLayer": 1, "nHead": 2, "nEmbd": 4, **config}), ())


def _tfjs_of(tensors: int) -> Model:
    assert tensors % 4 == 0
    return Model(
        "tfjs", text(sequential(*(layer("BatchNormalization", f"b{n}") for n in range(tensors // 4)), shape=[1])), ()
    )


def test_a_model_of_as_many_tensors_as_there_may_be_can_be_contributed_to() -> None:
    kept, values = prepare(task(), _tfjs_of(MAX_TENSORS), None, max_bytes=LIMIT)
    document = [{"shape": spec.shape, "data": [0.5] * spec.size} for spec in kept.weight_specs]
    weights, shapes = weights_document.decode(msgspec.msgpack.encode(document), LIMIT)
    assert (len(shapes), len(weights)) == (MAX_TENSORS, values.nbytes)


@pytest.mark.parametrize(
    ("offered", "backend"),
    [
        (_tfjs_of(MAX_TENSORS + 4), "tfjs"),
        (_gpt(nLayer=MAX_TENSORS // 12, nEmbd=2), "gpt"),
    ],
    ids=["tensors", "tensors of a gpt"],
)
def test_a_model_that_nobody_could_contribute_to_is_refused(offered: Model, backend: str) -> None:
    with pytest.raises(InvalidModel, match=f"more than {MAX_TENSORS} tensors"):
        prepare(task(tensor_backend=backend), offered, None, max_bytes=1 << 24)


def test_a_gpt_gets_its_tensors_from_its_configuration() -> None:
    kept, values = prepare(task(tensor_backend="gpt"), _gpt(), None, max_bytes=LIMIT)
    assert [spec.shape for spec in kept.weight_specs] == [
        *((5, 4), (3, 4)),
        *((4,), (4,), (4, 12), (12,), (4, 4), (4,)),
        *((4,), (4,), (4, 16), (16,), (16, 4), (4,)),
        *((4,), (4,), (4, 5)),
    ]
    assert not values[:32].any()
    assert kept.training_config_json == ""


def test_the_model_type_of_a_gpt_wins_over_its_sizes() -> None:
    kept, _ = prepare(task(tensor_backend="gpt"), _gpt(modelType="gpt-nano"), None, max_bytes=LIMIT)
    assert len(kept.weight_specs) == 41


def test_the_tensors_of_a_gpt_are_known_by_their_place() -> None:
    wanted = prepare(task(tensor_backend="gpt"), _gpt(), None, max_bytes=LIMIT)[0].weight_specs
    came = replace(_gpt(), weight_specs=tuple(WeightSpec(f"w{place}", spec.shape) for place, spec in enumerate(wanted)))
    values = np.arange(came.size, dtype="<f4")
    kept, ordered = prepare(task(tensor_backend="gpt"), came, values.tobytes(), max_bytes=LIMIT)
    assert kept.weight_specs == wanted
    assert ordered.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "config",
    [{"modelType": "gpt5"}, {"nHead": 3}, {"nLayer": 0}, {"vocabSize": 2**30}, {"nEmbd": "x"}, {"nLayer": 513}],
)
def test_a_gpt_that_no_client_could_build_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(InvalidModel):
        prepare(task(tensor_backend="gpt"), _gpt(**config), None, max_bytes=LIMIT)


def test_the_smallest_gpt_has_the_weights_that_the_clients_count() -> None:
    weights = gpt.weights_of_gpt(json.dumps(dict(gpt.NANO)))
    assert len(weights) == 41
    assert sum(int(np.prod(weight.shape)) for weight in weights) == 4_915_824


def test_tensors_keep_their_initial_bytes_wherever_they_stand() -> None:
    kept, values = prepare(task(), Model("tfjs", text(keras_like()), ()), None, max_bytes=LIMIT)
    names = [spec.name for spec in kept.weight_specs]
    bias = values[sum(spec.size for spec in kept.weight_specs[: names.index("lstm/bias")]) :][:16]
    assert bias.tolist() == [0] * 4 + [1] * 4 + [0] * 8
