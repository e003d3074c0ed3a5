from __future__ import annotations

import json
from typing import Any

import pytest

from learning.refusals import InvalidModel
from services.task_service.topology.weights import weights_of_topology
from tests.services.task_service.topologies import (
    Topology,
    dense,
    entry,
    functional,
    keras_like,
    layer,
    node,
    sequential,
    shared_and_nested,
    text,
)


def _names(topology: Topology) -> list[str]:
    return [weight.name for weight in weights_of_topology(text(topology))]


def _refusal(topology: Any) -> str:
    with pytest.raises(InvalidModel) as caught:
        weights_of_topology(topology if isinstance(topology, str) else text(topology))
    return str(caught.value)


def test_trainable_weights_come_first_and_all_others_after_them() -> None:
    weights = weights_of_topology(text(keras_like()))
    assert [(weight.name, weight.shape) for weight in weights] == [
        ("embedding/embeddings", (11, 5)),
        ("separable/depthwise_kernel", (3, 3, 3, 2)),
        ("separable/pointwise_kernel", (1, 1, 6, 4)),
        ("separable/bias", (4,)),
        ("lstm/kernel", (5, 16)),
        ("lstm/recurrent_kernel", (4, 16)),
        ("lstm/bias", (16,)),
        ("bn/gamma", (4,)),
        ("bn/beta", (4,)),
        ("head/kernel", (11, 2)),
        ("head/bias", (2,)),
        ("bn/moving_mean", (4,)),
        ("bn/moving_variance", (4,)),
        ("frozen/kernel", (4, 7)),
        ("frozen/bias", (7,)),
        ("frozen_bn/beta", (11,)),
        ("frozen_bn/moving_mean", (11,)),
        ("frozen_bn/moving_variance", (11,)),
    ]
    assert [weight.trainable for weight in weights] == [True] * 11 + [False] * 7


def test_layers_that_lead_nowhere_have_no_weights_and_shared_ones_have_theirs_once() -> None:
    names = _names(shared_and_nested())
    assert not any(name.startswith("nowhere") for name in names)
    assert names.count("twice/kernel") == 1
    assert names.count("inside_dense/kernel") == 1


def test_a_wrapped_topology_is_read_like_a_bare_one() -> None:
    assert _names({"model_config": keras_like(), "other": 1}) == _names(keras_like())


def test_an_old_sequential_model_that_is_a_bare_list_is_read() -> None:
    model = sequential(dense("a"), shape=[2])
    model["config"] = model["config"]["layers"]
    assert _names(model) == ["a/kernel", "a/bias"]


def test_lambda_layers_are_refused_by_name_with_what_to_do() -> None:
    refusal = _refusal(sequential(layer("Lambda", "code", function=["x", None, None]), shape=[2]))
    assert "layer code (Lambda)" in refusal
    assert "use layers that TF.js has" in refusal


def test_unknown_layers_are_refused_by_name_in_models_inside_too() -> None:
    inside = sequential(layer("MyOwn", "mine"), shape=[2], name="inside")
    assert "layer mine (MyOwn)" in _refusal(sequential(inside, shape=[2]))


def test_lambda_inside_a_wrapper_is_refused() -> None:
    wrapper = layer("TimeDistributed", "times", layer=layer("Lambda", "code"))
    assert "Lambda layers carry program code" in _refusal(sequential(wrapper, shape=[2, 2]))


def test_the_json_of_keras_3_is_refused_with_what_to_do() -> None:
    first = layer("InputLayer", "in", batch_shape=[None, 3])
    model = {"class_name": "Sequential", "config": {"name": "s", "layers": [first, dense("d")]}}
    assert "save the model with Keras 2" in _refusal(model)
    calls = functional(
        [entry("in", 3), {**node(dense("d"), ["in"]), "inbound_nodes": [{"args": []}]}], inputs=["in"], outputs=["d"]
    )
    assert "save the model with Keras 2" in _refusal(calls)


def test_a_layer_without_a_name_is_refused() -> None:
    assert "name must be a text" in _refusal(sequential({"class_name": "Dense", "config": {"units": 1}}, shape=[2]))


@pytest.mark.parametrize("name", ["", "a b", "../x", "_a", "é", "a" * 257, "a\n"])
def test_a_name_that_tfjs_would_not_take_is_refused(name: str) -> None:
    assert "name" in _refusal(sequential(dense(name), shape=[2]))


def test_two_layers_of_one_name_are_refused() -> None:
    assert "used twice" in _refusal(sequential(dense("a"), dense("a"), shape=[2]))
    inside = sequential(dense("a"), shape=[2], name="inside")
    assert "two tensors are called a/kernel" in _refusal(sequential(inside, dense("a"), shape=[2]))


def test_a_model_without_weights_is_refused() -> None:
    assert "nothing to learn" in _refusal(sequential(layer("Flatten", "f"), shape=[2, 2]))


def test_weights_of_another_type_than_float32_are_refused() -> None:
    assert "float32" in _refusal(sequential(dense("a", dtype="float16"), shape=[2]))


def test_a_convolution_that_leaves_nothing_is_refused() -> None:
    shrinking = layer("Conv2D", "c", filters=1, kernel_size=[5, 5])
    assert "its output would have the shape [None, 0, 0, 1]" in _refusal(sequential(shrinking, shape=[4, 4, 1]))


def test_a_layer_used_on_inputs_that_need_other_weights_is_refused() -> None:
    model = functional(
        [entry("in", 3), node(dense("a", 5), ["in"], [("a", 0, 0)])], inputs=["in"], outputs=[("a", 1, 0)]
    )
    assert "other weights" in _refusal(model)


@pytest.mark.parametrize(
    "calls",
    [[["b"]], [["b"], ["in"]], [["gone"]], [[("in", 1, 0)]], [[("in", 0, 1)]], [[("in", -1, 0)]], [["in", "in"]]],
)
def test_connections_that_cannot_be_made_are_refused(calls: list[list[Any]]) -> None:
    model = functional(
        [entry("in", 3), node(dense("a"), *calls), node(dense("b"), ["a"])], inputs=["in"], outputs=["b"]
    )
    if calls == [["b"], ["in"]]:
        # The second call can be made, and the first one after it.
        assert _names(model) == ["a/kernel", "a/bias", "b/kernel", "b/bias"]
    else:
        _refusal(model)


@pytest.mark.parametrize(
    "connection", [None, 1, "in", [], ["in"], ["in", 0], [1, 0, 0], ["in", "0", 0], ["in", True, {}]]
)
def test_connections_of_another_form_are_refused(connection: object) -> None:
    broken = {**node(dense("a"), ["in"]), "inbound_nodes": [[connection]]}
    assert "connection" in _refusal(functional([entry("in", 3), broken], inputs=["in"], outputs=["a"]))


def test_models_that_use_each_other_twice_level_by_level_are_cut_short() -> None:
    model = functional([entry("in", 2), node(dense("d", 2), ["in"])], inputs=["in"], outputs=["d"], name="m0")
    for level in range(1, 20):
        before = f"m{level - 1}"
        layers = [entry(f"in{level}", 2), node(model, [f"in{level}"], [(before, 1, 0)])]
        model = functional(layers, inputs=[f"in{level}"], outputs=[(before, 2, 0)], name=f"m{level}")
    assert "too long" in _refusal(model) or "levels deep" in _refusal(model)


def test_ten_thousand_layers_that_wait_for_each_other_are_cut_short() -> None:
    chain = [node(dense(f"d{index}"), [f"d{index - 1}" if index else "in"]) for index in range(10_000)]
    assert "too long" in _refusal(functional([entry("in", 3), *reversed(chain)], inputs=["in"], outputs=["d9999"]))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"class_name": "Sequential"},
        {"class_name": "Sequential", "config": 3},
        {"class_name": "Sequential", "config": {"layers": 3}},
        {"class_name": "Sequential", "config": {"layers": []}},
        {"class_name": "Sequential", "config": {"layers": [3]}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": 3}]}},
        {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": []}]}},
        {"class_name": "Functional", "config": {"layers": []}},
        {"class_name": "Functional", "config": {"layers": [], "input_layers": [], "output_layers": []}},
        {"class_name": "Functional", "config": {"layers": [entry("in", 1)], "input_layers": 1, "output_layers": [3]}},
        {"class_name": "RNN", "config": {}},
        {"model_config": 3},
        {"model_config": {"class_name": "Sequential", "config": {"layers": None}}},
    ],
)
def test_documents_that_are_no_models_are_refused(document: object) -> None:
    _refusal(json.dumps(document))


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("Dense", {}),
        ("Dense", {"units": 2**40}),
        ("Dense", {"units": 1, "use_bias": "no"}),
        ("Dense", {"units": 1, "activation": {"class_name": "code"}}),
        ("Dense", {"units": 1, "kernel_initializer": 3}),
        ("Dense", {"units": 1, "kernel_initializer": {"class_name": "VarianceScaling", "config": {"scale": -1}}}),
        ("Dense", {"units": 1, "kernel_initializer": {"class_name": "VarianceScaling", "config": {"mode": "x"}}}),
        ("Dense", {"units": 1, "kernel_initializer": {"class_name": "Constant", "config": {"value": "x"}}}),
        ("Dense", {"units": 1, "trainable": 1}),
        ("Conv1D", {"filters": 1, "kernel_size": 1}),
        ("Embedding", {"input_dim": 3, "output_dim": 3, "input_length": 5}),
        ("BatchNormalization", {"axis": 4}),
        ("BatchNormalization", {"axis": "last"}),
        ("LayerNormalization", {"axis": [1, 1]}),
        ("Permute", {"dims": [2]}),
        ("PReLU", {"shared_axes": [7]}),
        ("Reshape", {"target_shape": 3}),
        ("Add", {}),
        ("Concatenate", {}),
        ("Dot", {"axes": 1}),
        ("TimeDistributed", {"layer": dense("x")}),
        ("Bidirectional", {"layer": dense("x")}),
        ("InputLayer", {"batch_input_shape": [None, 3]}),
    ],
)
def test_layers_that_cannot_be_built_are_refused(class_name: str, config: dict[str, Any]) -> None:
    assert "layer odd" in _refusal(sequential(dense("first"), layer(class_name, "odd", **config), shape=[3]))
