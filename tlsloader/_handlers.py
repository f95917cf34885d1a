"""Handlers of all four shapes, run as if they had one."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Run = Callable[[Any, Context], Awaitable[Any]]

__all__ = ["runner_of", "shaped_like"]

_MAKERS: Final[dict[tuple[bool, bool], Callable[..., Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def runner_of(handler: Handler) -> Run:
    """Return the one coroutine that does all that *handler* does.

    A single request is still to be parsed, whatever else comes before that.
    """
    asked = "stream" if handler.request_streaming else "unary"
    given = "stream" if handler.response_streaming else "unary"
    behaviour: Callable[..., Any] = getattr(handler, f"{asked}_{given}")
    respond = _stream if handler.response_streaming else _answer
    parse = None if handler.request_streaming else handler.request_deserializer

    async def run(request: Any, context: Context) -> Any:
        if parse is not None:
            request = await _parsed(parse, request, context)
        return await respond(behaviour, request, context)

    return run


def shaped_like(handler: Handler, run: Run) -> Handler:
    """Return a handler of the same shape as *handler* that does what *run* does."""
    make = _MAKERS[bool(handler.request_streaming), bool(handler.response_streaming)]
    parse = handler.request_deserializer if handler.request_streaming else None
    made: Handler = make(
        run,
        request_deserializer=parse,
        response_serializer=handler.response_serializer,
    )
    return made


async def _parsed(
    parse: Callable[[bytes], Any],
    raw: bytes,
    context: Context,
) -> Any:
    try:
        return parse(raw)
    except Exception:  # noqa: BLE001 -- whatever a parser raises, the bytes are bad
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "the request is not a valid message"
        )


async def _answer(behaviour: Callable[..., Any], request: Any, context: Context) -> Any:
    response = await behaviour(request, context)
    if response is None and context.code() in {None, grpc.StatusCode.OK}:
        # gRPC would send an empty message, as if all were well
        raise TypeError("the handler returned no response")
    return response


async def _stream(
    behaviour: Callable[..., Any], request: Any, context: Context
) -> None:
    responses = behaviour(request, context)
    if not hasattr(responses, "__aiter__"):
        await responses
        return
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)
