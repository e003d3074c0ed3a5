"""Whose client wrote the body of an upload: told by its shape (protocol section 3.4), whoever carried it.

    model                        its bytes          weights            dialect
    array of bytes               the artifacts      (any)              g21
    {"type": "Buffer", …}        [kind, …]          (any)              g30   2.2 and 3.0 under Node send the same
    object with indices as keys  [kind, …]          array of bytes     g30   and in browsers
    object with indices as keys  [kind, …]          object likewise    gdv

Anything else (base64, forms, a modelURL) is nobody's. Judges nothing but the shape: what is in there is for
`gateway.dialects.model_uploads` to read.
"""

from __future__ import annotations

from collections.abc import Mapping


def uploading_dialect(model: object, weights: object) -> str:
    """The dialect of the client that writes `model` and `weights` of a JSON body so; empty where none does."""
    if isinstance(model, list):
        return "g21" if _begins_a_map(model[0] if model else None) else ""
    if not isinstance(model, Mapping):
        return ""
    data = model.get("data")
    if model.get("type") == "Buffer":
        return "g30" if isinstance(data, list) and data and _begins_an_array(data[0]) else ""
    if not _begins_an_array(model.get("0")):
        return ""
    if isinstance(weights, list):
        return "g30"
    return "gdv" if isinstance(weights, Mapping) else ""


def _begins_a_map(byte: object) -> bool:
    return isinstance(byte, int) and (0x80 <= byte <= 0x8F or byte in (0xDE, 0xDF))


def _begins_an_array(byte: object) -> bool:
    return isinstance(byte, int) and 0x92 <= byte <= 0x93
