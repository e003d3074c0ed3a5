"""Whatever is done to a topology, it is read or refused, and nothing else happens."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from learning.refusals import InvalidModel
from services.task_service.topology.weights import weights_of_topology
from tests.services.task_service import topologies

_ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**33),
    st.sampled_from([10**30, 2**63, 2**64, 0.5, 1e300, "", "Lambda", "Dense", "Model", "Sequential", "a/b", "in"]),
    st.lists(st.one_of(st.integers(-2, 5), st.none(), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.sampled_from(["class_name", "config", "name", "layers"]), st.integers(0, 3), max_size=3),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [path, *(place for key in keys for place in _places(value[key], (*path, key)))]


def _changed(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    inside = dict(value) if isinstance(value, dict) else list(value)
    inside[path[0]] = _changed(value[path[0]], path[1:], odd)
    return inside


@settings(deadline=None)
@given(data=st.data())
def test_a_topology_with_odd_values_in_it_is_read_or_refused(data: st.DataObject) -> None:
    topology: Any = topologies.NAMED[data.draw(st.sampled_from(sorted(topologies.NAMED)))]()
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(_places(topology)))
        topology = _changed(topology, place, data.draw(_ODD))
    with contextlib.suppress(InvalidModel):
        weights_of_topology(topologies.text(topology))


@settings(deadline=None)
@given(text=st.text())
def test_any_text_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidModel):
        weights_of_topology(text)
