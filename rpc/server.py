"""A gRPC server from its start to its last call: how every service process runs.

    run(main())     the loop, the allocator, and one sentence where a port is taken
    serve(...)      listen, report health, serve; on SIGTERM or SIGINT drain and return

Draining takes at most GRACE_S seconds: health says NOT_SERVING, endless streams end
with SHUTDOWN, new calls are refused, calls in flight may finish. Knows no service.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from rpc.chunks import CHUNK_BYTES, MAX_FRAME_BYTES
from rpc.credentials import TokenInterceptor, server_credentials
from rpc.interceptors import CallInterceptor
from rpc.memory import tune_allocator
from rpc.metrics import CallMetrics, metrics_endpoint, new_registry
from rpc.settings import ServerSettings

GRACE_S = 10.0
NOTICE_S = 0.05  # for those who watch the health to be told, before their streams end
READINESS_PERIOD_S = 1.0
MAX_CONNECTION_AGE_S = 90.0
"""A channel asks for addresses again when a connection ends: so long until every caller knows a replica that is new."""
_HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
_Serving = health_pb2.HealthCheckResponse
_log = structlog.stdlib.get_logger("rpc")


class CannotListen(Exception):
    """The address is taken or not ours; the text says which, and what to do."""

    def __init__(self, address: str, problem: str) -> None:
        self.address = address
        super().__init__(f"Cannot listen on {address}: {problem}. Stop what listens there, or choose another address.")


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a process: tunes the allocator, runs `main` on the fastest loop there is; CannotListen exits with 1."""
    tune_allocator()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main)
    except CannotListen as error:
        sys.exit(str(error))


async def serve(
    add_servicers: Callable[[grpc.aio.Server], None],
    *,
    names: Sequence[str],
    host: str,
    port: int,
    settings: ServerSettings,
    metrics_port: int = 0,
    registry: CollectorRegistry | None = None,
    endless: Collection[str] = (),
    readiness: Callable[[], Awaitable[bool]] | None = None,
    ready: Callable[[int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves until `stop` is set, or until SIGTERM or SIGINT where no `stop` is given; then drains.

    names      full names of the services ("disco.task.v1.TaskService"), for health and reflection
    endless    methods ("/disco.task.v1.TaskService/Watch") whose streams end only with the process
    readiness  asked once a second; while it says False (or fails), health says NOT_SERVING
    ready      is told the port once calls are answered; port 0 lets the system choose one
    registry   where the calls are counted; give one to add metrics of your own

    Raises CannotListen.
    """
    registry = registry or new_registry()
    calls = CallInterceptor(CallMetrics(registry), {*endless, _HEALTH_WATCH})
    server = _new_server(calls, settings)
    add_servicers(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    bound = _listen(server, host, port, settings=settings)
    await _report(health_servicer, names, serving=readiness is None)
    with _stop_event(stop) as stopping:
        async with (
            _metrics(registry, settings.metrics_host, metrics_port),
            _drained(server, calls, health_servicer),
            _watched(readiness, health_servicer, names),
        ):
            await server.start()
            _log.info("server.started", address=_address(host, bound), services=list(names))
            if ready is not None:
                ready(bound)
            await stopping.wait()
            _log.info("server.draining", grace_s=GRACE_S)
    _log.info("server.stopped")


def _new_server(calls: CallInterceptor, settings: ServerSettings) -> grpc.aio.Server:
    interceptors: list[grpc.aio.ServerInterceptor] = [calls]
    if token := settings.service_token.get_secret_value():
        interceptors.append(TokenInterceptor(token))
    return grpc.aio.server(
        interceptors=interceptors,
        options=(
            ("grpc.so_reuseport", 0),  # two processes on one port would share its calls without a word
            ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
            ("grpc.max_send_message_length", MAX_FRAME_BYTES),
            # What an upload that waits for its turn has sent is to stay with its sender: probing opens windows of tens
            # of megabytes. Two chunks keep the stream as busy, and cost as little.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", 2 * CHUNK_BYTES),
            # Our channels ping every 20 s, with or without calls; by default a server hangs up on that.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # gRPC varies this by a tenth. New calls go over a new connection; those that run, and streams without end
            # above all, keep the old one for as long as they like: no grace is set.
            ("grpc.max_connection_age_ms", int(MAX_CONNECTION_AGE_S * 1000)),
        ),
    )


def _listen(server: grpc.aio.Server, host: str, port: int, *, settings: ServerSettings) -> int:
    address = _address(host, port)
    credentials = server_credentials(settings)
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError:
        raise CannotListen(address, _problem(host, port)) from None


def _problem(host: str, port: int) -> str:
    """gRPC does not say why it cannot listen; the system does."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as attempt:
            attempt.bind(where)
    except OSError as error:
        return error.strerror or str(error)
    return "it was taken a moment ago"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _report(servicer: health.aio.HealthServicer, names: Sequence[str], *, serving: bool) -> None:
    status = _Serving.SERVING if serving else _Serving.NOT_SERVING
    for name in ("", *names):
        await servicer.set(name, status)


@asynccontextmanager
async def _metrics(registry: CollectorRegistry, host: str, port: int) -> AsyncIterator[None]:
    try:
        async with metrics_endpoint(registry, host=host, port=port):
            yield
    except OSError as error:
        raise CannotListen(_address(host, port), error.strerror or str(error)) from None


@asynccontextmanager
async def _drained(
    server: grpc.aio.Server, calls: CallInterceptor, servicer: health.aio.HealthServicer
) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await servicer.enter_graceful_shutdown()
        await asyncio.sleep(NOTICE_S)
        calls.end_streams()
        await server.stop(GRACE_S)


@asynccontextmanager
async def _watched(
    readiness: Callable[[], Awaitable[bool]] | None, servicer: health.aio.HealthServicer, names: Sequence[str]
) -> AsyncIterator[None]:
    """Asks `readiness` while the block runs."""
    if readiness is None:
        yield
        return
    watching = asyncio.create_task(_watch(readiness, servicer, names))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(
    readiness: Callable[[], Awaitable[bool]], servicer: health.aio.HealthServicer, names: Sequence[str]
) -> None:
    was_ready: bool | None = None
    while True:
        try:
            async with asyncio.timeout(READINESS_PERIOD_S):
                is_ready = await readiness()
        # The pump: whatever goes wrong while asking means that the process is not ready, and asking must go on.
        except Exception as error:  # noqa: BLE001
            is_ready = False
            _log.debug("server.readiness_failed", error=repr(error))
        if is_ready is not was_ready:
            _log.info("server.readiness", ready=is_ready)
            await _report(servicer, names, serving=is_ready)
            was_ready = is_ready
        await asyncio.sleep(READINESS_PERIOD_S)


@contextmanager
def _stop_event(given: asyncio.Event | None) -> Iterator[asyncio.Event]:
    """The caller's event; without one, an event that SIGTERM and SIGINT set while the block runs."""
    if given is not None:
        yield given
        return
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopping.set)
    try:
        yield stopping
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None  # uvloop does not exist there
    import uvloop

    return uvloop.new_event_loop
