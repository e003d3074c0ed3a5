"""docs/models.md says what is read, written and allowed today."""

from __future__ import annotations

import re

from services.task_service.conversion.exporting import FORMS
from services.task_service.conversion.keras_layers import KEPT
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.topology.document import MAX_JSON_BYTES, MAX_LEVELS
from tests.docs.pages import page, table

MODELS = page("models.md")
MIB = 1024 * 1024


def test_the_layers_are_those_that_are_read() -> None:
    quoted = " ".join(line.removeprefix("> ") for line in MODELS.splitlines() if line.startswith("> "))
    assert quoted.split(", ") == sorted(KEPT)
    assert f"each of the {len(KEPT)} layer classes" in page("decisions/0007-models-without-tensorflow.md")


def test_the_forms_are_those_that_are_written() -> None:
    assert [re.sub("`", "", row[0]) for row in table(MODELS, "form", "is", "loads with")] == list(FORMS)


def test_the_limits_are_those_of_the_code() -> None:
    limits = ConversionLimits()
    said = re.sub(r"\s+", " ", MODELS)
    assert f"{limits.cpu_seconds} s of computing and {limits.seconds:g} s in all" in said
    assert f"{limits.memory_bytes // (1024 * MIB)} GiB of address space, {limits.file_bytes // MIB} MiB of file" in said
    assert f"{limits.members} files in an archive" in said
    assert f"JSON ends at {MAX_JSON_BYTES // MIB} MiB and {MAX_LEVELS} levels" in said
