"""How layers are connected: the calls of a Functional model, as Keras 2 and Keras 3 write them, as TF.js does.

Keras 3 does not count the call that a model inside makes of itself; Keras 2 and TF.js do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from learning.refusals import InvalidModel

_RECURRENT = ("SimpleRNN", "GRU", "LSTM")
Reference = list[Any]
"""[layer, call, output, {}]"""


class Calls:
    """Rewrites the calls within one model. `inside` names the models inside, `chains` the Sequential ones of them."""

    def __init__(
        self, *, inside: Collection[str], chains: Collection[str], keras_3: bool, note: Callable[[str], None]
    ) -> None:
        self._inside = frozenset(inside)
        self._chains = frozenset(chains)
        self._keras_3 = keras_3
        self._note = note

    def nodes(self, nodes: Any, class_name: str, where: str) -> list[list[Reference]]:
        """All calls of one layer."""
        if not isinstance(nodes, list):
            raise InvalidModel(problem=f"{where}: inbound_nodes must be a list")
        return [self._node(node, class_name, where) for node in nodes]

    def ends(self, value: Any, key: str) -> list[Reference]:
        """The inputs or outputs of the model: one, or a list of them."""
        return [
            [name, call + (self._keras_3 and name in self._chains), output]
            for name, call, output in _leaves(value, key)
        ]

    def _node(self, node: Any, class_name: str, where: str) -> list[Reference]:
        if isinstance(node, dict):
            found = self._of_keras_3(node, class_name, where)
        else:
            found = self._of_keras_2(node, class_name, where)
        if not found:
            raise InvalidModel(problem=f"{where}: it is called on nothing")
        return found

    def _of_keras_3(self, node: dict[str, Any], class_name: str, where: str) -> list[Reference]:
        args, kwargs = node.get("args"), node.get("kwargs")
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise InvalidModel(problem=f"{where}: a call must have args and kwargs")
        args = [each for each in args if each is not None]
        if len(args) > 1 and class_name not in _RECURRENT:
            raise InvalidModel(problem=f"{where}: it is called with {len(args)} arguments; TF.js layers take one")
        found = [self._keras_tensor(tensor, where) for tensor in _flat(args)]
        return found + [self._keras_tensor(tensor, where) for tensor in self._states(kwargs, class_name, where)]

    def _keras_tensor(self, tensor: Any, where: str) -> Reference:
        match tensor:
            case {"class_name": "__keras_tensor__", "config": {"keras_history": [str(name), int(call), int(output)]}}:
                return [name, call + (name in self._inside), output, {}]
        raise InvalidModel(problem=f"{where}: it is called on something that is not the output of a layer")

    def _of_keras_2(self, node: Any, class_name: str, where: str) -> list[Reference]:
        if isinstance(node, list) and len(node) in (3, 4) and isinstance(node[0], str):
            node = [node]
        if not isinstance(node, list):
            raise InvalidModel(problem=f"{where}: a call must be a list")
        found: list[Reference] = []
        for reference in node:
            match reference:
                case [str(name), int(call), int(output), *rest] if call >= 0:
                    found.append([name, call, output, {}])
                    for kwargs in rest[:1]:
                        states = self._states(kwargs if isinstance(kwargs, dict) else {}, class_name, where)
                        found += [[name, call, output, {}] for name, call, output in _leaves(states, where)]
                case _:
                    raise InvalidModel(problem=f"{where}: it is called on something that is not the output of a layer")
        return found

    def _states(self, kwargs: dict[str, Any], class_name: str, where: str) -> list[Any]:
        """The initial states among the arguments by name; of the others only those that change nothing are taken."""
        states: list[Any] = []
        for key, value in kwargs.items():
            if value is None:
                continue
            if key == "initial_state" and class_name in _RECURRENT:
                states = _flat(value) if isinstance(value, list) and not _is_leaf(value) else [value]
            elif key == "training" and value is False:
                if class_name not in _RECURRENT:
                    self._note(f"{where} is called with training=False; TF.js has no word for that and lets it train.")
            else:
                raise InvalidModel(problem=f"{where}: it is called with {key[:64]}, which TF.js does not know")
        return states


def _flat(value: Any) -> list[Any]:
    """Lists inside of lists, but no reference."""
    if isinstance(value, list) and not _is_leaf(value):
        return [leaf for each in value for leaf in _flat(each)]
    return [value]


def _is_leaf(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str)


def _leaves(value: Any, where: str) -> list[tuple[str, int, int]]:
    leaves: list[tuple[str, int, int]] = []
    for leaf in _flat(value):
        match leaf:
            case [str(name), int(call), int(output), *_]:
                leaves.append((name, call, output))
            case _:
                raise InvalidModel(
                    problem=f"{where}: inputs and outputs must be given as a list, and each by its layer"
                )
    return leaves
