"""Any bytes at all: the readers answer with a refusal or a model, and with nothing else."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.refusals import DiscoError, InvalidModel
from services.task_service.conversion import formats
from services.task_service.conversion.converting import convert_model
from services.task_service.conversion.keras_config import Rewriting, topology_of
from services.task_service.conversion.keras_layers import KEPT
from services.task_service.conversion.limits import ConversionLimits
from services.task_service.conversion.messages import fields
from services.task_service.conversion.tensor_bundle import TensorBundle
from services.task_service.topology.weights import weights_of_topology

HEADS = st.sampled_from(
    [b"", b"PK\x03\x04", b"{", b'{"modelTopology":', (40).to_bytes(8, "little") + b"{", b"\x80\x04"]
)
KEYS = st.sampled_from(
    [
        *("class_name", "config", "layers", "name", "units", "module", "inbound_nodes", "args", "kwargs"),
        *("input_layers", "output_layers", "layer", "dtype", "activation", "kernel_initializer", "batch_shape", "axis"),
        *("initial_state", "training", "trainable", "kernel_regularizer", "bias_constraint", "backward_layer", "items"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from(["Dense", "d", "Sequential", "keras.layers", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)
LAYER = st.fixed_dictionaries(
    {
        "class_name": st.sampled_from([*KEPT, "Functional", "Sequential"]),
        "config": st.dictionaries(KEYS, JSON, max_size=5).map(lambda config: {"name": "d", **config}),
    },
    optional={"inbound_nodes": JSON, "module": JSON},
)


def read(path: Path) -> None:
    """In this process, which is quicker; HDF5 is read in the other one only."""
    limits = ConversionLimits(file_bytes=1 << 20)
    with (
        TemporaryDirectory() as folder,
        contextlib.suppress(DiscoError),
        formats.reading(path, Path(folder), limits) as found,
    ):
        for tensor in (found.tensors or {}).values():
            tensor.read()


@given(HEADS, st.binary(max_size=300))
def test_any_file_is_a_model_or_a_refusal(head: bytes, octets: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        path.write_bytes(head + octets)
        read(path)


@given(st.dictionaries(st.sampled_from(["model.json", "saved_model.pb", "a/b", "keras_metadata.pb"]), st.binary()))
def test_any_archive_is_a_model_or_a_refusal(members: dict[str, bytes]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, octets in members.items():
                archive.writestr(name, octets)
        read(path)


@given(st.sampled_from(["Sequential", "Functional"]), st.dictionaries(KEYS, JSON), st.lists(LAYER, max_size=3) | JSON)
def test_any_json_is_a_topology_or_a_refusal(class_name: str, config: dict[str, object], layers: object) -> None:
    document = {"class_name": class_name, "config": {"name": "m", **config, "layers": layers}}
    with contextlib.suppress(InvalidModel):
        weights_of_topology(msgspec.json.encode(topology_of(document, Rewriting(keras_3=True))).decode())


@given(st.binary(max_size=200))
def test_any_message_has_fields_or_is_refused(octets: bytes) -> None:
    with contextlib.suppress(InvalidModel):
        for _ in fields(octets):
            pass


@settings(max_examples=40)
@given(st.data())
def test_any_damage_to_a_saved_model_is_noticed_or_harmless(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(__file__).with_name("saved_models.zip")) as kept:
            (Path(folder) / "m.zip").write_bytes(kept.read("tf_keras/dense.saved.zip"))
        with zipfile.ZipFile(Path(folder) / "m.zip") as archive:
            archive.extractall(Path(folder) / "m")
        name = data.draw(st.sampled_from(["variables/variables.index", "keras_metadata.pb"]))
        path = Path(folder) / "m" / name
        octets = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(octets)
        read(Path(folder) / "m")


@given(st.binary(max_size=400), st.booleans())
def test_any_index_is_a_table_or_a_refusal(octets: bytes, ends_well: bool) -> None:
    with TemporaryDirectory() as folder, contextlib.suppress(InvalidModel):
        end = (0xDB4775248B80FB57).to_bytes(8, "little") if ends_well else b""
        (Path(folder) / "variables.index").write_bytes(octets + bytes(48) + end)
        TensorBundle(Path(folder) / "variables").tensor("x")


async def test_any_damage_to_hdf5_is_noticed_or_harmless(saved: Path, tmp_path: Path) -> None:
    """Each in a process of its own, so a few: every 199th byte of the first kilobytes, where the structure is."""
    original = (saved / "tf_keras" / "dense.h5").read_bytes()
    path = tmp_path / "damaged.h5"
    for place in range(8, 4000, 199):
        path.write_bytes(original[:place] + bytes([original[place] ^ 0xFF]) + original[place + 1 :])
        with contextlib.suppress(DiscoError):
            async with convert_model(path) as converted:
                assert converted.weights is not None
