"""The HTTP API of a running server, as the command line speaks it. Knows no command and prints nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from disco_server.system import bracketed, reachable

TIMEOUT_S = 60.0
Progress = Callable[[int, int], None]
"""Is told bytes done, and bytes in all (0: not known)."""


class Refused(Exception):
    """The server said no; `errors` are pairs of a JSON path and what is wrong there."""

    def __init__(self, sentence: str, errors: list[tuple[str, str]] | None = None) -> None:
        super().__init__(sentence)
        self.errors = errors or []


class Unreachable(Exception):
    """No server answers."""


def default_address(environment: Mapping[str, str] = os.environ) -> str:
    """Where a server that was started with the same environment is."""
    host = reachable(environment.get("DISCO_GATEWAY_HOST") or "127.0.0.1")
    return f"http://{bracketed(host)}:{environment.get('DISCO_GATEWAY_PORT') or '8080'}"


class ServerClient:
    """`token` is sent where it is not empty: with what changes something."""

    def __init__(self, address: str, *, token: str = "") -> None:
        self._address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def tasks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._json("GET", "/tasks")
        return found

    def task(self, task_id: str) -> dict[str, Any]:
        """Raises Refused where there is none."""
        for task in self.tasks():
            if task_id in (task.get("id"), task.get("taskID")):
                return task
        raise Refused(f"There is no task {task_id}.")

    def round(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._json("GET", f"/tasks/{task_id}/round")
        return found

    def create(self, task: Mapping[str, Any], files: list[tuple[str, str, Path]], progress: Progress) -> None:
        """Creates a task; `files` are field, name and path of what is sent beside it."""
        total, done = sum(path.stat().st_size for _, _, path in files), 0

        def sent(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        opened = [(field, (name, _Counted(path.open("rb"), sent))) for field, name, path in files]
        try:
            parts: list[Any] = [("task", (None, json.dumps(task).encode(), "application/json")), *opened]
            self._text("POST", "/tasks", files=parts)
        finally:
            for _, (_, file) in opened:
                file.close()

    def remove(self, task_id: str) -> None:
        self._text("DELETE", f"/tasks/{task_id}")

    def fork(self, task_id: str, new_id: str, *, title: str, version: int | None) -> dict[str, Any]:
        wanted = {"id": new_id, "title": title, "version": version}
        found: dict[str, Any] = self._json("POST", f"/tasks/{task_id}/fork", json=wanted)
        return found

    def description(self, task_id: str) -> dict[str, Any]:
        """The task in the field names of `disco.task.v1.Task`."""
        found: dict[str, Any] = self._json("GET", f"/tasks/{task_id}")
        return found

    def version(self, task_id: str, version: int | None) -> tuple[int, str]:
        """Number of a version (None: the newest), and the SHA-256 of its weights."""
        if version is not None:
            return version, str(self._json("GET", f"/tasks/{task_id}/versions/{version}")["digest"])
        newest = self._json("GET", f"/tasks/{task_id}/versions?page_size=1")["versions"][0]
        return int(newest["number"]), str(newest["weights_sha256"])

    def model(self, task_id: str) -> dict[str, Any]:
        """model.json of the newest version, as TF.js reads it."""
        found: dict[str, Any] = self._json("GET", f"/tfjs/{task_id}/model.json")
        return found

    def model_body(self, task_id: str) -> bytes:
        """The newest model as clients of generation 4 read it, which have a form for every kind of model."""
        with self._answer("GET", f"/v4/tasks/{task_id}/model.json") as answer:
            return answer.read()

    def save_weights(self, task_id: str, version: int, target: Path, progress: Progress) -> int:
        """Writes the weights of a version to a file; returns their bytes."""
        done = 0
        with (
            self._answer("GET", f"/tasks/{task_id}/versions/{version}/weights.bin") as answer,
            target.open("wb") as file,
        ):
            for chunk in answer.iter_bytes(1 << 20):
                file.write(chunk)
                done += len(chunk)
                progress(done, int(answer.headers.get("content-length", 0)))
        return done

    def _json(self, method: str, path: str, **more: Any) -> Any:
        return json.loads(self._text(method, path, **more))

    def _text(self, method: str, path: str, **more: Any) -> str:
        with self._answer(method, path, **more) as answer:
            answer.read()
            return answer.text

    @contextmanager
    def _answer(self, method: str, path: str, **more: Any) -> Iterator[httpx.Response]:
        """Raises Refused, Unreachable."""
        try:
            with (
                httpx.Client(base_url=self._address, headers=self._headers, timeout=TIMEOUT_S) as client,
                client.stream(method, path, **more) as answer,
            ):
                if not answer.is_success:
                    answer.read()
                    raise _refused(answer)
                yield answer
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unreachable(f"No Disco server answers at {self._address} ({_in_short(error)}).") from None


class _Counted:
    """A file that says how much of it was read."""

    def __init__(self, file: IO[bytes], read: Callable[[int], None]) -> None:
        self._file = file
        self._read = read

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._read(len(data))
        return data

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(1 << 20), b"")

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def _refused(answer: httpx.Response) -> Refused:
    try:
        document = answer.json()
        errors = [(str(error["path"]), str(error["detail"])) for error in document.get("errors", [])]
        return Refused(str(document["detail"]), errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refused(f"The server answered with status {answer.status_code}, and not as a Disco server does.")


def _in_short(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
