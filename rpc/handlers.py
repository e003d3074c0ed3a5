"""The four kinds of gRPC handlers as one: what an interceptor needs to wrap any of them.

Knows the kinds only: requests streaming or not, responses streaming or not.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

# Quoted: these classes are generic to the type checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Behaviour: TypeAlias = Callable[[Any, "Context"], Awaitable[Any]]
"""Takes the request, or the iterator of requests, and answers; where responses stream, by `context.write`."""


def with_behaviour(handler: Handler, behaviour: Behaviour) -> Handler:
    """A handler of the same kind around another behaviour, which must be a coroutine function."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    wrapped: Handler = make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return wrapped


def behaviour_of(handler: Handler) -> Behaviour:
    """What a handler does, in the one form of `Behaviour`: an asynchronous generator's messages are written."""
    inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

    async def behaviour(request: Any, context: Context) -> Any:
        answer = inner(request, context)
        if inspect.isawaitable(answer):
            return await answer
        async with aclosing(answer) as messages:  # its `finally` runs now, not when memory is collected
            async for message in messages:
                await context.write(message)
        return None

    return behaviour
