"""gRPC on top of proven connections: options, channels and the gate.

Besides `tlsloader.workload` the only gRPC import of this room.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

__all__ = [
    "CALLER",
    "CHANNEL_OPTIONS",
    "FRONT_SERVER_OPTIONS",
    "SERVER_OPTIONS",
    "Gate",
    "channel",
]

_log = logging.getLogger(__name__)

_MIB: Final = 1 << 20
_KIB: Final = 1 << 10

_BOTH: Final = (
    # The probe would let windows grow to megabytes in front of a slow reader
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _MIB),
    ("grpc.max_receive_message_length", 4 * _MIB),
    ("grpc.max_send_message_length", 4 * _MIB),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
# Soft and hard limit alike: between them calls would be refused at random
_METADATA: Final = (
    ("grpc.max_metadata_size", 64 * _KIB),
    ("grpc.absolute_max_metadata_size", 64 * _KIB),
)
_FRONT_METADATA: Final = (
    ("grpc.max_metadata_size", 16 * _KIB),
    ("grpc.absolute_max_metadata_size", 16 * _KIB),
)

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *_BOTH,
    *_METADATA,
    # http_proxy in the environment would catch even 127.0.0.1
    ("grpc.enable_http_proxy", 0),
    # min_reconnect_backoff_ms stays at its 20 s: it bounds each attempt as well, which
    # is over only when the dialer has its answer
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""For every channel inside the mesh."""

_SERVER: Final = (
    *_BOTH,
    # A second service on the same port must fail, not take half of the calls
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (*_SERVER, *_METADATA)
"""For servers behind the Router, which adds metadata to what it took in."""

FRONT_SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (*_SERVER, *_FRONT_METADATA)
"""For the Router's own server: less metadata than the servers behind it take."""

CALLER: ContextVar[Any] = ContextVar("caller")
"""Whom the gate let in: what its ``decide`` returned for the call being handled."""

_NO_CREDENTIALS: Final = frozenset(("no_certificate", "no_token"))
_MOST_METHODS: Final = 1024


def channel(target: str) -> grpc.aio.Channel:
    """Open a channel to *target*, the private Unix socket of a `Dialer`."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], code: Any) -> None:
    await context.abort(code, "denied")


class Gate(grpc.aio.ServerInterceptor):
    """Let only those calls reach a handler that *decide* agrees to.

    ``decide(method, context)`` returns the caller, found in `CALLER` while the call
    is handled, or raises an error with a ``reason``, one stable word. The reason is
    logged; the caller reads "denied": UNAUTHENTICATED if *unauthenticated* holds the
    reason, PERMISSION_DENIED otherwise. It comes before the request is even parsed.

    The gate also ends every call with a status: what else leaves a handler is logged
    and becomes INTERNAL "internal error", and a cancellation that is not the
    caller's own leaves nobody waiting.

    Args:
        decide: says who calls, plainly or as a coroutine.
        refused: ends a denied call in its own words, given the context and the code.
        unauthenticated: the reasons that mean "show who you are".

    """

    def __init__(
        self,
        decide: Callable[[str, grpc.aio.ServicerContext[Any, Any]], Any],
        *,
        refused: Callable[
            [grpc.aio.ServicerContext[Any, Any], grpc.StatusCode], Awaitable[None]
        ] = _refuse,
        unauthenticated: Collection[str] = _NO_CREDENTIALS,
    ) -> None:
        self._decide = decide
        self._refused = refused
        self._unauthenticated = frozenset(unauthenticated)
        self._handlers: OrderedDict[str, grpc.RpcMethodHandler[Any, Any]] = (
            OrderedDict()
        )

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler behind the gate; the same one for each call."""
        method = handler_call_details.method
        known = self._handlers.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        wrapped = self._wrap(method, handler)
        self._remember(method, wrapped)
        return wrapped

    def _remember(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
        # A generic handler takes any name: callers must not fill the memory with them
        self._handlers[method] = handler
        if len(self._handlers) > _MOST_METHODS:
            self._handlers.popitem(last=False)

    def _wrap(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Put the gate before *handler*, and parsing behind the gate."""
        parse = handler.request_deserializer
        if handler.request_streaming:
            parse = None
        respond = _stream if handler.response_streaming else _answer
        behaviour = _behaviour(handler)

        async def guarded(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> Any:
            try:
                await self._admit(method, context)
                if parse is not None:
                    request = await _parsed(parse, request, context)
                return await respond(behaviour, request, context)
            except BaseException as error:
                await _end(method, context, error)
                raise

        make = _MAKERS[
            bool(handler.request_streaming), bool(handler.response_streaming)
        ]
        wrapped: grpc.RpcMethodHandler[Any, Any] = make(
            guarded,
            request_deserializer=(
                handler.request_deserializer if handler.request_streaming else None
            ),
            response_serializer=handler.response_serializer,
        )
        return wrapped

    async def _admit(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        try:
            caller = self._decide(method, context)
            if inspect.isawaitable(caller):
                caller = await caller
        except Exception as error:
            reason = getattr(error, "reason", None)
            if not isinstance(reason, str):
                raise
            code = self._code(method, reason, error)
        else:
            CALLER.set(caller)
            return
        await self._refused(context, code)
        await _refuse(context, code)

    def _code(self, method: str, reason: str, error: Exception) -> grpc.StatusCode:
        peer = getattr(error, "peer_id", None)
        _log.warning(
            "call refused",
            extra={
                "method": method,
                "reason": reason,
                "detail": str(error),
                "peer_id": str(peer) if peer else None,
            },
        )
        if reason in self._unauthenticated:
            return grpc.StatusCode.UNAUTHENTICATED
        return grpc.StatusCode.PERMISSION_DENIED


_MAKERS: Final[dict[tuple[bool, bool], Callable[..., Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _behaviour(handler: Any) -> Callable[..., Any]:
    asked = "stream" if handler.request_streaming else "unary"
    given = "stream" if handler.response_streaming else "unary"
    behaviour: Callable[..., Any] = getattr(handler, f"{asked}_{given}")
    return behaviour


async def _parsed(
    parse: Callable[[bytes], Any],
    raw: bytes,
    context: grpc.aio.ServicerContext[Any, Any],
) -> Any:
    try:
        return parse(raw)
    except Exception:  # noqa: BLE001 -- whatever a parser raises, the bytes are bad
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "the request is not a valid message"
        )


async def _answer(behaviour: Callable[..., Any], request: Any, context: Any) -> Any:
    response = await behaviour(request, context)
    if response is None and context.code() in {None, grpc.StatusCode.OK}:
        # gRPC would send an empty message, as if all were well
        raise TypeError("the handler returned no response")
    return response


async def _stream(behaviour: Callable[..., Any], request: Any, context: Any) -> None:
    responses = behaviour(request, context)
    if not hasattr(responses, "__aiter__"):
        await responses
        return
    async with aclosing(responses):
        async for response in responses:
            await context.write(response)


async def _end(
    method: str,
    context: grpc.aio.ServicerContext[Any, Any],
    error: BaseException,
) -> None:
    """Give the call a status, whatever left its handler."""
    match error:
        case grpc.aio.AbortError() | grpc.aio.InternalError():
            return  # it has one; or the call is broken, as when the caller hung up
        case asyncio.CancelledError():
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                await _end_cancelled(context)
                return
            # Not ours: a call or task that the handler waited for was cancelled
        case Exception():
            pass
        case _:
            return
    _log.error("handler failed", exc_info=error, extra={"method": method})
    if not context.done():
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")


async def _end_cancelled(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    # Mostly the caller is gone and nobody reads this; otherwise it must not wait
    if not context.done():
        with suppress(grpc.aio.BaseError, grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the call was stopped")
