"""Connections that stay with whoever calls scripts, some of them: taking one out of the client's pool and giving it
back costs as much as a call.

What goes wrong is treated as the client treats it: a connection that broke is replaced once. Knows no script.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

HELD = 8
"""Of the client's connections, those that are given back last: the others are for whatever is no script."""


class ScriptConnections:
    """Those of one client, which closes them."""

    def __init__(self, redis: Redis) -> None:
        self._pool = redis.connection_pool
        self._held: list[AbstractConnection] = []

    async def call(self, *command: str | bytes | int) -> Any:
        """The reply. Raises what the client would raise."""
        connection = self._held.pop() if self._held else await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            return await connection.retry.call_with_retry(
                lambda: _once(connection, command), lambda _: connection.disconnect()
            )
        finally:
            if len(self._held) < HELD:
                self._held.append(connection)
            else:
                await self._pool.release(connection)


async def _once(connection: AbstractConnection, command: tuple[str | bytes | int, ...]) -> Any:
    """On a connection that is made where there is none. One that is left in the middle of a call is closed."""
    await connection.send_command(*command)
    return await connection.read_response()
