"""One socket around a session that does what it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from gateway.connection import Codec, Connection, Ending
from gateway.decoding import Decoding
from gateway.dialects.messages import ClientMessage, Hello, ServerMessage, Welcome
from gateway.metrics import GatewayMetrics
from gateway.outbox import Outbox
from learning.refusals import MalformedMessage, TaskNotFound


class Scripted:
    """A session that answers every message, and turns events into what they hold."""

    def __init__(self) -> None:
        self.calls: list[str] = ["first"]
        self.messages: list[ServerMessage] = []
        self.ended: list[bool] = []

    def receive(self, message: ClientMessage, now: float) -> None:
        self.messages.append(Welcome("me"))

    def deliver(self, event: BaseException, now: float) -> None:
        raise event

    def tick(self, now: float) -> None: ...

    def lost(self, now: float, *, orderly: bool) -> None:
        self.ended.append(orderly)
        self.calls.append("last")

    def take_calls(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls

    def take_messages(self) -> list[ServerMessage]:
        messages, self.messages = self.messages, []
        return messages

    def wake_at(self) -> float | None:
        return None


class Socket:
    """The ASGI side, in memory."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def hears(self, frame: bytes) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": frame})

    def closes(self, **more: Any) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1005, **more})


class Setting:
    def __init__(self) -> None:
        self.session = Scripted()
        self.socket = Socket()
        self.carried_out: list[str] = []
        self.registry = CollectorRegistry()
        codec = Codec(decode=self._decode, encode=lambda message: b"welcome")
        outbox = Outbox(max_frames=9, max_bytes=99)
        self.connection: Connection[str, BaseException] = Connection(
            self.session, codec, outbox, decoding=Decoding(), metrics=GatewayMetrics(self.registry)
        )

    @staticmethod
    def _decode(frame: bytes) -> ClientMessage:
        if frame == b"bad":
            raise MalformedMessage(problem="it is bad")
        if frame == b"bug":
            raise ZeroDivisionError
        return Hello()

    async def run(self, *, call: Any = None) -> Ending:
        async def carry_out(name: str) -> None:
            self.carried_out.append(name)
            if call is not None and name == "first":
                await call()

        return await asyncio.wait_for(
            self.connection.run(self.socket.receive, self.socket.send, run_call=carry_out), 10
        )


async def test_refused_message_costs_itself_only() -> None:
    setting = Setting()
    setting.socket.hears(b"bad")
    setting.socket.hears(b"good")
    running = asyncio.create_task(setting.run())
    while not setting.socket.sent:
        await asyncio.sleep(0)
    setting.socket.closes(reason="")
    assert await running == Ending("gone", orderly=True)
    assert setting.socket.sent == [{"type": "websocket.send", "bytes": b"welcome"}]
    assert (setting.connection.messages_received, setting.connection.messages_refused) == (2, 1)


async def test_socket_that_breaks_is_no_orderly_end_and_last_calls_are_carried_out() -> None:
    setting = Setting()
    setting.socket.closes()
    assert await setting.run() == Ending("gone", orderly=False)
    assert setting.session.ended == [False]
    assert setting.carried_out == ["first", "last"]
    assert setting.socket.sent == []


async def test_event_that_ends_the_socket_closes_it_with_its_code() -> None:
    setting = Setting()
    setting.socket.hears(b"good")
    running = asyncio.create_task(setting.run())
    while not setting.socket.sent:
        await asyncio.sleep(0)
    setting.connection.deliver(TaskNotFound(task_id="t"))
    assert await running == Ending("TASK_NOT_FOUND", orderly=False)
    close = setting.socket.sent[-1]
    assert (close["type"], close["code"]) == ("websocket.close", 4504)


async def test_bug_in_a_codec_ends_this_socket_with_1011() -> None:
    setting = Setting()
    setting.socket.hears(b"bug")
    with structlog.testing.capture_logs() as logged:
        assert await setting.run() == Ending("INTERNAL", orderly=False)
    assert [line["event"] for line in logged] == ["socket.failed"]
    assert setting.socket.sent[-1]["code"] == 1011
    assert setting.carried_out == ["first", "last"]


async def test_bug_in_a_call_ends_this_socket_with_1011() -> None:
    setting = Setting()
    setting.socket.hears(b"good")

    async def break_down() -> None:
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as logged:
        assert await setting.run(call=break_down) == Ending("INTERNAL", orderly=False)
    assert [line["event"] for line in logged] == ["call.failed"]
    assert setting.socket.sent[-1]["code"] == 1011
