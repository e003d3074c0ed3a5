"""What may be an id, and what may not."""

from __future__ import annotations

import pytest

from learning.ids import participant_id, peer_id, task_id, valid_id
from learning.refusals import InvalidId

GOOD = ["a", "Z", "0", "-", "_", "...", ".hidden", "a.b-c_d", "x" * 128, "3f6c2f04-59a7-4d2b-9c0e-3b1d6a2f7e11"]
BAD = ["", ".", "..", "x" * 129, "a/b", "a b", "a\n", "\n", "a:b", "a{b}", "ä", "a\0", "~", "a%2e", "٣"]


@pytest.mark.parametrize("text", GOOD)
def test_an_id_is_given_back_as_it_is(text: str) -> None:
    assert (task_id(text), participant_id(text), peer_id(text)) == (text, text, text)


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_refused_by_the_kind_of_id_it_was_meant_for(text: str) -> None:
    for kind, check in (("task", task_id), ("participant", participant_id), ("peer", peer_id)):
        with pytest.raises(InvalidId) as refusal:
            check(text)
        assert refusal.value.variables == {"kind": kind}
    with pytest.raises(InvalidId):
        valid_id(text, "replica")
