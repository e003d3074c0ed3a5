"""Files from URLs of strangers, over real connections to loopback."""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.task_sources.allowed_addresses import networks
from gateway.task_sources.fetching import Fetcher, FetchTimes, NotFetchedError, unpacked
from tests.gateway.task_sources.file_server import FileServer, answer

HERE = networks("127.0.0.0/8")
BODY = os.urandom(200_000)
TIMES = FetchTimes(connect_s=5, idle_s=0.3, total_s=5)


def resolving(*addresses: str) -> tuple[list[tuple[str, int]], Fetcher]:
    """What was asked, and a fetcher for which every name has these addresses."""
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return addresses

    return asked, Fetcher(HERE, times=TIMES, resolve=resolve)


async def reason(fetcher: Fetcher, url: str, path: Path, *, limit_bytes: int = 1 << 20) -> str:
    with pytest.raises(NotFetchedError) as refusal:
        await fetcher.fetch(url, path, limit_bytes=limit_bytes)
    return str(refusal.value)


async def test_file_of_a_named_network_is_fetched(tmp_path: Path) -> None:
    server = FileServer()
    server.pages["/model.json"] = BODY
    async with server.running() as url:
        assert await Fetcher(HERE).fetch(f"{url}/model.json", tmp_path / "f", limit_bytes=len(BODY)) == len(BODY)
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.requests[0]["accept-encoding"] == "identity"


async def test_private_address_is_refused_by_default_and_nobody_is_called(tmp_path: Path) -> None:
    server = FileServer()
    server.pages["/"] = BODY
    async with server.running() as url:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
            said = await reason(Fetcher(()), url.replace("127.0.0.1", host) + "/", tmp_path / "f")
            assert "not public" in said, host
    assert server.requests == []


async def test_name_is_resolved_once_per_hop_and_the_connection_goes_to_that_address(tmp_path: Path) -> None:
    server = FileServer()
    server.pages["/a"] = BODY
    async with server.running() as url:
        asked, fetcher = resolving("127.0.0.1")
        await fetcher.fetch(f"http://models.example:{server.port}/a", tmp_path / "f", limit_bytes=1 << 20)
        assert url.endswith(str(server.port))
    assert asked == [("models.example", server.port)]
    assert server.requests[0]["host"] == f"models.example:{server.port}"


async def test_name_with_one_address_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    _, fetcher = resolving("127.0.0.1", "10.0.0.1")
    assert "not public" in await reason(fetcher, "http://models.example/a", tmp_path / "f")


async def test_next_address_is_tried_where_the_first_does_not_answer(tmp_path: Path) -> None:
    server = FileServer()
    server.pages["/a"] = BODY
    async with server.running():
        _, fetcher = resolving("127.0.0.9", "127.0.0.1")
        size = await fetcher.fetch(f"http://x.example:{server.port}/a", tmp_path / "f", limit_bytes=1 << 20)
    assert size == len(BODY)


async def test_plain_http_to_the_public_internet_is_refused(tmp_path: Path) -> None:
    _, fetcher = resolving("8.8.8.8")
    assert "is not https" in await reason(fetcher, "http://models.example/a", tmp_path / "f")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://127.0.0.1/a", "no absolute http(s) URL"),
        ("file:///etc/passwd", "no absolute http(s) URL"),
        ("/model.json", "no absolute http(s) URL"),
        ("http://user:word@127.0.0.1/", "user name or a password"),
        ("http://127.0.0.1:99999/", "is no URL"),
        ("http://127.0.0.1/" + "a" * 3000, "longer than 2048"),
    ],
)
async def test_what_is_no_plain_web_address_is_refused(tmp_path: Path, url: str, sentence: str) -> None:
    assert sentence in await reason(Fetcher(HERE), url, tmp_path / "f")


async def test_redirects_are_followed_five_times_and_each_is_checked(tmp_path: Path) -> None:
    server = FileServer()
    for hop in range(6):
        server.redirect(f"/{hop}", f"/{hop + 1}")
    server.pages["/6"] = BODY
    server.redirect("/metadata", "http://169.254.169.254/latest/meta-data/")
    server.redirect("/elsewhere", "gopher://127.0.0.1/")
    async with server.running() as url:
        fetcher = Fetcher(HERE)
        assert await fetcher.fetch(f"{url}/1", tmp_path / "f", limit_bytes=1 << 20) == len(BODY)
        assert await reason(fetcher, f"{url}/0", tmp_path / "g") == "redirects more than 5 times"
        assert "not public" in await reason(fetcher, f"{url}/metadata", tmp_path / "h")
        assert "no absolute http(s) URL" in await reason(fetcher, f"{url}/elsewhere", tmp_path / "i")


async def test_body_that_is_too_large_is_refused_whether_it_says_so_or_never_ends(tmp_path: Path) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await answer(200, {})(writer)
        while True:
            writer.write(bytes(10_000))
            sent += 10_000
            await writer.drain()

    server = FileServer()
    server.pages |= {"/said": BODY, "/endless": endless}
    async with server.running() as url:
        for path in ("said", "endless"):
            said = await reason(Fetcher(HERE), f"{url}/{path}", tmp_path / path, limit_bytes=100_000)
            assert said == "is larger than 100000 bytes"
    assert sent < 20_000_000  # what the buffers of two sockets hold, and not more
    assert (tmp_path / "endless").stat().st_size <= 100_000


async def test_silence_ends_the_transfer(tmp_path: Path) -> None:
    silent = asyncio.Event()

    async def stalls(writer: asyncio.StreamWriter) -> None:
        await answer(200, {"Content-Length": "100"}, b"half")(writer)
        await writer.drain()
        await silent.wait()

    server = FileServer()
    server.pages["/"] = stalls
    async with server.running() as url:
        assert "sent nothing for 0.3 seconds" in await reason(Fetcher(HERE, times=TIMES), f"{url}/", tmp_path / "f")
        silent.set()


async def test_what_is_compressed_counts_as_it_is_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    server = FileServer()
    for name, packed in (("good", gzip.compress(BODY)), ("bomb", bomb), ("cut", bomb[:1000]), ("bad", b"no gzip")):
        server.pages[f"/{name}"] = answer(200, {"Content-Encoding": "gzip", "Content-Length": str(len(packed))}, packed)
    server.pages["/br"] = answer(200, {"Content-Encoding": "br", "Content-Length": "1"}, b"x")
    async with server.running() as url:
        fetcher = Fetcher(HERE)
        assert await fetcher.fetch(f"{url}/good", tmp_path / "f", limit_bytes=len(BODY)) == len(BODY)
        assert (tmp_path / "f").read_bytes() == BODY
        assert await reason(fetcher, f"{url}/bomb", tmp_path / "g") == "is larger than 1048576 bytes"
        assert await reason(fetcher, f"{url}/cut", tmp_path / "h", limit_bytes=1 << 30) == "breaks off"
        assert "is not the gzip" in await reason(fetcher, f"{url}/bad", tmp_path / "i")
        assert "was not asked for" in await reason(fetcher, f"{url}/br", tmp_path / "j")


async def test_what_swells_is_unpacked_in_small_pieces() -> None:
    body = bytes(5 << 20)
    answer = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=_Bytes(gzip.compress(body)))
    sizes = [len(piece) async for piece in unpacked(answer)]
    assert (sum(sizes), max(sizes)) == (len(body), 1 << 16)


class _Bytes(httpx.AsyncByteStream):
    """A body that comes at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


async def test_other_answers_and_broken_ones_are_refused(tmp_path: Path) -> None:
    async def hangs_up(writer: asyncio.StreamWriter) -> None:
        await answer(200, {"Content-Length": "100"}, b"half")(writer)
        writer.close()

    server = FileServer()
    server.pages["/cut"] = hangs_up
    async with server.running() as url:
        assert await reason(Fetcher(HERE), f"{url}/none", tmp_path / "f") == "answered with status 404"
        assert "broke off" in await reason(Fetcher(HERE), f"{url}/cut", tmp_path / "g")
    assert await reason(Fetcher(HERE), f"{url}/none", tmp_path / "h") == "cannot be reached"


async def test_tls_asks_for_the_name_of_the_url_and_checks_the_certificate(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "models.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = FileServer()
    tls.sni_callback = lambda _, host, __: server.sni.append(host)
    async with server.running(tls):
        _, fetcher = resolving("127.0.0.1")
        assert await reason(fetcher, f"https://models.example:{server.port}/", tmp_path / "f") == "cannot be reached"
    assert server.sni == ["models.example"]
    assert server.requests == []
