"""Every way of saying no has a reason of its own, a sentence with all its blanks, and a place in the tree."""

from __future__ import annotations

import re
import string

import pytest
from disco.errors.v1 import error_reason_pb2

from learning import refusals
from learning.refusals import BY_REASON, DiscoError, Fault, Refusal, RoundStale, StoreUnavailable

FAULTS = {"STORAGE_FULL", "STORE_UNAVAILABLE", "SHUTDOWN", "STORED_DATA_DAMAGED", "INTERNAL"}


def blanks(kind: type[DiscoError]) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(kind.sentence) if name}


@pytest.mark.parametrize("kind", BY_REASON.values())
def test_a_sentence_is_filled_with_its_variables(kind: type[DiscoError]) -> None:
    variables = {name: f"<{name}>" for name in blanks(kind)}
    error = kind(**variables)
    assert error.variables == variables
    assert str(error) == kind.sentence.format(**variables)
    assert str(error)[0].isupper() or str(error)[0] == "<"
    assert str(error).endswith(".")


@pytest.mark.parametrize("kind", BY_REASON.values())
def test_a_sentence_without_one_of_its_variables_is_a_bug(kind: type[DiscoError]) -> None:
    for missing in blanks(kind):
        with pytest.raises(KeyError):
            kind(**dict.fromkeys(blanks(kind) - {missing}, "x"))


def test_variables_are_kept_as_text() -> None:
    assert RoundStale(round=3, current_round=5).variables == {"round": "3", "current_round": "5"}
    assert StoreUnavailable().variables == {}


def test_every_reason_is_a_value_of_the_contract() -> None:
    values = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert set(BY_REASON) == values - {"UNSPECIFIED"}


def test_what_the_rules_refuse_and_what_broke_are_told_apart() -> None:
    assert {reason for reason, kind in BY_REASON.items() if issubclass(kind, Fault)} == FAULTS
    assert {reason for reason, kind in BY_REASON.items() if issubclass(kind, Refusal)} == set(BY_REASON) - FAULTS


def test_the_tree_at_the_top_shows_every_class() -> None:
    tree, _, _ = (refusals.__doc__ or "").partition("`reason`")
    drawn = set(re.findall(r"\b[A-Z][a-z]\w+", tree.partition("DiscoError")[2]))
    assert {kind.__name__ for kind in BY_REASON.values()} | {"Refusal", "Fault"} == drawn


@pytest.mark.parametrize("kind", BY_REASON.values())
def test_a_reason_fits_the_rules_of_error_details(kind: type[DiscoError]) -> None:
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", kind.reason)
