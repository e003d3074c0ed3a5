"""Protocol buffers of strangers, read without their definitions: field numbers and what they hold."""

from __future__ import annotations

from collections.abc import Iterator

from learning.refusals import InvalidModel

_LIMIT = 10
"""Bytes of the longest number."""
Field = tuple[int, int | bytes]


def fields(data: bytes | memoryview) -> Iterator[Field]:
    """(number, value) of one message; a value is a number or bytes. Raises InvalidModel."""
    view, at = memoryview(data), 0
    while at < len(view):
        key, at = varint(view, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(view, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = varint(view, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise damaged()
        if at + size > len(view):
            raise damaged()
        yield key >> 3, bytes(view[at : at + size])
        at += size


def varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for place in range(_LIMIT):
        if at + place >= len(view):
            break
        byte = view[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise damaged()


def text(value: int | bytes) -> str:
    try:
        return inner(value).decode()
    except UnicodeDecodeError as broken:
        raise damaged() from broken


def inner(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise damaged()
    return value


def number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise damaged()
    return value


def damaged() -> InvalidModel:
    return InvalidModel(problem="the SavedModel is damaged")
