"""What each generation of clients demands of a task document before it takes it (protocol sections 5.1 to 5.5).

These are the clients' own rules, defects included: they look at types and hardly at
values, take null for a value of the wrong type, and ignore what they do not know. What this
server demands is another matter (`gateway.dialects.task_uploads`), and less: it fills gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

Problem = tuple[str, str]
Check = Callable[[object], str | None]

GENERATIONS: Final = {"g21": "2.1", "g22": "2.2", "g30": "3.0", "gdv": "4"}
"""The dialects, and how their generation is called."""


def problems_of(document: object, dialect: str) -> list[Problem]:
    """Why clients of a generation would reject a document as it stands: pairs of a JSON path and a reason."""
    if not isinstance(document, Mapping):
        return [("", "is no object")]
    found: list[Problem] = []
    _look(found, document, "taskID" if dialect == "g21" else "id", _text, required=True)
    if dialect != "gdv":
        _look(found, document, "digest", _digest)
    display, training = document.get("displayInformation"), document.get("trainingInformation")
    for name, part, rules in (
        ("displayInformation", display, _display_rules),
        ("trainingInformation", training, _training_rules),
    ):
        if isinstance(part, Mapping):
            rules(found, part, dialect)
        else:
            found.append((name, "is missing" if part is None else "is no object"))
    return found


def _display_rules(found: list[Problem], display: Mapping[str, Any], dialect: str) -> None:
    look = _looker(found, display, "displayInformation")
    look("taskTitle", _text, required=True)
    look("summary", _summary, required=dialect != "g21")
    for name in ("dataFormatInformation", "dataExampleText", "model"):
        look(name, _text)
    look("dataExampleImage", _text if dialect == "g21" else _url)
    look("headers", _texts)
    if dialect == "g21":
        look("tradeoffs", _text)
        look("limitations", _text)
        look("dataExample", lambda value: _example(value, exact=True))
    else:
        look("sampleDatasetLink", _url)
        look("sampleDatasetInstructions", _text)
        look("dataExample", lambda value: _example(value, exact=False))


def _training_rules(found: list[Problem], training: Mapping[str, Any], dialect: str) -> None:
    look = _looker(found, training, "trainingInformation")
    for name in ("epochs", "batchSize", "validationSplit", "roundDuration"):
        look(name, _number, required=True)
    if dialect != "gdv":
        look("modelID", _text, required=True)
        look("minimumReadyPeers", _number)
        look("decentralizedSecure", _flag)
    look("maxShareValue", _number)
    look("LABEL_LIST", _texts)
    if dialect == "g21":
        _g21_rules(look, training)
    else:
        _later_rules(look, training, dialect)
    if training.get("dataType") == "image":
        look("IMAGE_H", _number, required=True)
        look("IMAGE_W", _number, required=True)


def _g21_rules(look: Callable[..., None], training: Mapping[str, Any]) -> None:
    look("dataType", _text, required=True)
    look("modelCompileData", _compile_data, required=True)
    look("modelURL", _text)
    for name in ("learningRate", "noiseScale", "clippingRadius"):
        look(name, _number)
    look("preprocessingFunctions", _texts)
    is_tabular = training.get("dataType") == "tabular"
    look("inputColumns", _texts, required=is_tabular)
    look("outputColumns", _texts, required=is_tabular)


def _later_rules(look: Callable[..., None], training: Mapping[str, Any], dialect: str) -> None:
    look("dataType", _one_of("image", "tabular", "text"), required=True)
    look("scheme", _one_of("federated", "decentralized", "local"), required=True)
    look("tensorBackend", _one_of("tfjs", "gpt"), required=True)
    look("roundDuration", lambda value: _divisor(value, training.get("epochs")))
    look("preprocessingFunctions", _list)
    look("inputColumns", _texts)
    look("outputColumns", _texts)
    look("tokenizer", _text)
    look("maxSequenceLength", _number)
    if dialect == "g22":
        look("noiseScale", _number)
        look("clippingRadius", _number)
        look("aggregator", _number)
    else:
        look("privacy", _privacy)
    if dialect == "g30":
        look("aggregator", _one_of("mean", "secure"))
    if dialect == "gdv":
        look("minNbOfParticipants", _number, required=True)
        look("aggregationStrategy", _one_of("mean", "secure"))


def _looker(found: list[Problem], place: Mapping[str, Any], path: str) -> Callable[..., None]:
    def look(name: str, check: Check, *, required: bool = False) -> None:
        _look(found, place, name, check, required=required, path=path)

    return look


def _look(
    found: list[Problem], place: Mapping[str, Any], name: str, check: Check, *, required: bool = False, path: str = ""
) -> None:
    where = f"{path}.{name}" if path else name
    if name not in place:
        if required:
            found.append((where, "is missing"))
    elif (problem := check(place[name])) is not None:
        found.append((where, problem))


def _text(value: object) -> str | None:
    return None if isinstance(value, str) else "is not a text"


def _number(value: object) -> str | None:
    return None if isinstance(value, (int, float)) and not isinstance(value, bool) else "is not a number"


def _flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "is neither true nor false"


def _list(value: object) -> str | None:
    return None if isinstance(value, list) else "is not a list"


def _texts(value: object) -> str | None:
    is_fine = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return None if is_fine else "is not a list of texts"


def _url(value: object) -> str | None:
    try:
        is_fine = isinstance(value, str) and bool(urlsplit(value).scheme)
    except ValueError:
        is_fine = False
    return None if is_fine else "is not an absolute URL"


def _one_of(*words: str) -> Check:
    return lambda value: None if value in words else f"is none of {', '.join(words)}"


def _divisor(value: object, epochs: object) -> str | None:
    if not isinstance(value, (int, float)) or not isinstance(epochs, (int, float)):
        return None  # said already
    return None if value and epochs % value == 0 else f"does not divide epochs ({epochs})"


def _digest(value: object) -> str | None:
    is_fine = isinstance(value, Mapping) and all(isinstance(value.get(name), str) for name in ("algorithm", "value"))
    return None if is_fine else "is no object with the texts algorithm and value"


def _summary(value: object) -> str | None:
    is_fine = isinstance(value, Mapping) and all(isinstance(value.get(name), str) for name in ("preview", "overview"))
    return None if is_fine else "is no object with the texts preview and overview"


def _compile_data(value: object) -> str | None:
    is_fine = (
        isinstance(value, Mapping)
        and isinstance(value.get("optimizer"), str)
        and isinstance(value.get("loss"), str)
        and _texts(value.get("metrics")) is None
    )
    return None if is_fine else "is no object with the texts optimizer and loss and the list of texts metrics"


def _privacy(value: object) -> str | None:
    is_fine = isinstance(value, Mapping) and all(
        _number(value[name]) is None for name in ("clippingRadius", "noiseScale") if name in value
    )
    return None if is_fine else "is no object with the numbers clippingRadius and noiseScale"


def _example(value: object, *, exact: bool) -> str | None:
    def is_fine(cell: object) -> bool:
        return (
            isinstance(cell, Mapping)
            and isinstance(cell.get("columnName"), str)
            and (isinstance(cell.get("columnData"), str) or _number(cell.get("columnData")) is None)
            and (not exact or cell.keys() == {"columnName", "columnData"})
        )

    if isinstance(value, list) and all(map(is_fine, value)):
        return None
    return "is not a list of objects with columnName and columnData" + (", and nothing else" if exact else "")
