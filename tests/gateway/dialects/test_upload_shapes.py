"""Bodies of uploads, told apart by their shape."""

import msgspec
import pytest

from gateway.dialects.upload_shapes import uploading_dialect

ARTIFACTS = msgspec.msgpack.encode({"modelTopology": {}})
KINDED = msgspec.msgpack.encode([0, {"modelTopology": {}}])
GPT = msgspec.msgpack.encode([1, [0, 1], {}])


def indexed(data: bytes) -> dict[str, int]:
    return {str(index): byte for index, byte in enumerate(data)}


@pytest.mark.parametrize(
    ("model", "weights", "dialect"),
    [
        (list(ARTIFACTS), [1, 2], "g21"),
        (list(ARTIFACTS), None, "g21"),
        ({"type": "Buffer", "data": list(KINDED)}, [1], "g30"),
        ({"type": "Buffer", "data": list(GPT)}, [1], "g30"),
        (indexed(KINDED), [1, 2], "g30"),
        (indexed(KINDED), {"0": 1}, "gdv"),
        (indexed(KINDED), {}, "gdv"),
        (indexed(KINDED), None, ""),
        (indexed(ARTIFACTS), [1], ""),
        ({"type": "Buffer", "data": list(ARTIFACTS)}, [1], ""),
        ({"type": "Buffer", "data": []}, [1], ""),
        ({"type": "Buffer"}, [1], ""),
        (list(KINDED), [1], ""),
        ([], [], ""),
        (["a"], [], ""),
        ([None], [], ""),
        ({}, [], ""),
        ("kgDA", [1], ""),
        (7, [1], ""),
        (None, None, ""),
    ],
)
def test_shape_of_a_body_tells_whose_client_wrote_it(model: object, weights: object, dialect: str) -> None:
    assert uploading_dialect(model, weights) == dialect
