"""Models in zip archives over HTTP: a gateway before a real task service, which has another process unpack them."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from blobstore.directory import DirectoryBlobStore
from gateway.app import create_app
from gateway.service_clients import ServiceClients
from gateway.settings import GatewaySettings
from roundstore.task_hints import MemoryTaskHints
from services.task_service.conversion import workroom
from services.task_service.conversion.limits import ConversionLimits
from tests.gateway.task_sources.files import SPECS, TASK, WEIGHTS, document
from tests.gateway.test_http_tasks import assert_problem
from tests.services.task_service.conversion.kept_models import NAMES
from tests.services.task_service.replicas import serving

KEPT = Path(__file__).parents[1] / "services" / "task_service" / "conversion" / "saved_models.zip"
MIB = 1 << 20
UNPACKED_BYTES = ConversionLimits().file_bytes


@pytest_asyncio.fixture
async def http(tmp_path: Path, settings: GatewaySettings) -> AsyncIterator[httpx.AsyncClient]:
    async with DirectoryBlobStore(tmp_path / "store") as store, serving(store, MemoryTaskHints()) as address:
        own = settings.model_copy(update={"task_service_address": address})
        clients = ServiceClients.open(own)
        transport = httpx.ASGITransport(app=create_app(own, clients, registry=CollectorRegistry()))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            yield client
        await clients.close()


def kept(name: str) -> bytes:
    with zipfile.ZipFile(KEPT) as archive:
        return archive.read(name)


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return written.getvalue()


def understated(archive: bytes) -> bytes:
    """The same archive, whose directory says that its only member has one byte."""
    at = archive.rindex(b"PK\x01\x02")
    return archive[: at + 24] + (1).to_bytes(4, "little") + archive[at + 28 :]


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


async def post(
    http: httpx.AsyncClient, data: bytes, *, name: str = "model.zip", task_id: str = "wine"
) -> httpx.Response:
    task = json.dumps({**TASK, "id": task_id}).encode()
    return await http.post("/tasks", files=[("task", (None, task)), ("model", (name, data))])


@pytest.mark.parametrize("name", NAMES)
async def test_zipped_saved_model_has_the_weights_that_the_same_model_has_as_h5(
    http: httpx.AsyncClient, name: str
) -> None:
    for file, task_id in ((f"tf_keras/{name}.saved.zip", "zipped"), (f"tf_keras/{name}.h5", "h5")):
        answer = await post(http, kept(file), name=file.rpartition("/")[2], task_id=task_id)
        assert (answer.status_code, answer.text) == (200, "Successful task upload")
    zipped_weights, h5_weights = [(await http.get(f"/tasks/{task}/weights.bin")).content for task in ("zipped", "h5")]
    assert zipped_weights == h5_weights != b""


async def test_zipped_model_of_tfjs_is_taken_with_its_shards(http: httpx.AsyncClient) -> None:
    model = document([{"paths": ["group1-shard1of1.bin"], "weights": SPECS}])
    data = zipped(("m/model.json", json.dumps(model).encode()), ("m/group1-shard1of1.bin", WEIGHTS))
    assert (await post(http, data, name="A MODEL.ZIP")).status_code == 200
    assert (await http.get("/tasks/wine/weights.bin")).content == WEIGHTS


async def test_bomb_is_refused_before_anything_is_unpacked(
    http: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(UNPACKED_BYTES // (64 * MIB) + 1):
            archive.writestr(f"variables/{index}", bytes(64 * MIB))
    assert len(written.getvalue()) < MIB
    unpacked = await largest_folder_while(http, written.getvalue(), tmp_path, monkeypatch)
    assert unpacked < MIB


async def largest_folder_while(
    http: httpx.AsyncClient, data: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Posts what is too large, and returns the bytes that were in the folder of the process when it ended."""
    sizes: list[int] = []
    answer_of = workroom._answer

    def looking(folder: Path, returned: int, limits: ConversionLimits) -> dict[str, object]:
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        return answer_of(folder, returned, limits)

    monkeypatch.setattr(workroom, "_answer", looking)
    answer = await post(http, data)
    assert_problem(answer, 413, "TOO_LARGE")
    assert answer.json()["limit_bytes"] == str(UNPACKED_BYTES)
    (size,) = sizes
    return size


SAVED = ("saved_model.pb", b"")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (zipped(("../../evil.json", b"{}")), "which is not taken"),
        (zipped(("/etc/passwd", b"{}")), "which is not taken"),
        (zipped(("a/../../evil", b"{}")), "which is not taken"),
        (zipped(("a\\..\\evil", b"{}")), "which is not taken"),
        (zipped((link("model.json"), b"/etc/passwd")), "is a link"),
        (zipped(("model.json", b"{}"), ("MODEL.json", b"{}")), "two files of one name"),
        (zipped(*((f"f{index}", b"") for index in range(1025))), "more than 1024 files"),
        (understated(zipped(("model.json", bytes(2 * MIB)))), "in the zip archive is"),
        (zipped(("inner.zip", zipped(("model.json", b"{}")))), "neither model.json nor saved_model.pb"),
        (zipped(SAVED, ("variables/variables.index", b"x")), "GraphModel"),
        (zipped(("model.pkl", b"cos\nsystem\n(S'true'\ntR.")), "none is run here"),
        (zipped(("m/data.pkl", b"cos\nsystem\n(S'true'\ntR.")), "neither is taken"),
        (zipped(SAVED)[:-30], "damaged"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
        (b"not an archive", "no format that is read here"),
        (b"", ""),
    ],
)
async def test_archive_with_tricks_is_refused_by_name(http: httpx.AsyncClient, data: bytes, problem: str) -> None:
    answer = await post(http, data, name="../../etc/cron.d/model.zip")
    assert_problem(answer, 400, "INVALID_MODEL")
    assert problem in answer.json()["detail"]
    assert (await http.get("/tasks")).json() == []


async def test_nothing_stays_of_an_archive(
    http: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled = tmp_path / "spooled"
    spooled.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spooled))
    assert (await post(http, kept("tf_keras/dense.saved.zip"))).status_code == 200
    assert (await post(http, zipped(("../x", b"")), task_id="other")).status_code == 400
    assert list(spooled.iterdir()) == []
