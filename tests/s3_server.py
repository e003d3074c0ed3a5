"""A server that speaks S3 over HTTP: `python -m tests.s3_server PORT`.

It is moto, which keeps objects in memory, with two things that the real ones have
and moto lacks: a condition and the write that it guards are one step, and a body that ends too
early is no object.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def one_after_the_other(app: Wsgi) -> Wsgi:
    """Bodies arrive side by side; what is done with them happens in one order."""
    turn = threading.Lock()

    def in_turn(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        announced = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(announced)
        if len(body) < announced:  # who sent it is gone, and S3 keeps nothing of what is not whole
            start_response("400 Bad Request", [("Content-Length", "0")])
            return []
        environ["wsgi.input"] = io.BytesIO(body)
        with turn:
            return [b"".join(app(environ, start_response))]

    return in_turn


class Handler(WSGIRequestHandler):
    """Keeps connections open, as the real ones do, and quiet."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        pass


def main(port: int) -> None:
    app = one_after_the_other(DomainDispatcherApplication(create_backend_app))
    make_server("127.0.0.1", port, app, threaded=True, request_handler=Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
