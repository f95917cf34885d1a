"""The gate before every handler: who may call, and that every call gets a status."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter, OrderedDict
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from tlsloader._calls import Call, RunningCalls
from tlsloader._handlers import runner_of, shaped_like

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from tlsloader._door import Door
    from tlsloader._errors import PeerRefusedError

__all__ = ["CALLER", "Gate"]

_log = logging.getLogger(__name__)

CALLER: ContextVar[Any] = ContextVar("caller")
"""Whom the gate let in: what its ``decide`` returned for the call being handled."""

_NO_CREDENTIALS: Final = frozenset(("no_certificate", "no_token"))
_COME_ANEW: Final = frozenset(("goaway_ignored", "too_old"))
"""Reasons that speak against the connection, not against the peer."""
_MOST_METHODS: Final = 1024


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
    caller's own leaves nobody waiting. Calls that run when *door* evicts their peer
    end as if they were refused now, and their handlers are cancelled.

    Args:
        decide: says who calls, plainly or as a coroutine.
        door: what stands before the server.
        refused: ends a denied call in its own words, given the context and the code.
        unauthenticated: the reasons that mean "show who you are".

    """

    def __init__(
        self,
        decide: Callable[[str, grpc.aio.ServicerContext[Any, Any]], Any],
        *,
        door: Door | None = None,
        refused: Callable[
            [grpc.aio.ServicerContext[Any, Any], grpc.StatusCode], Awaitable[None]
        ] = _refuse,
        unauthenticated: Collection[str] = _NO_CREDENTIALS,
    ) -> None:
        self._decide = decide
        self._refused = refused
        self._unauthenticated = frozenset(unauthenticated)
        self._calls = RunningCalls()
        self.refusals: Counter[str] = Counter()
        """How many calls were refused, or ended, by reason."""
        if door is not None:
            self.refusals = door.tally.denials
            door.ends(self)
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

    def running(self, connection: str) -> int:
        """Return how many calls run that came on *connection*."""
        return self._calls.on(connection)

    async def end(self, connection: str, error: PeerRefusedError) -> None:
        """End the calls that run on *connection*, whose peer was evicted by *error*."""

        async def deny(call: Call) -> None:
            code = self._code(call.method, error.reason, error, "call ended")
            with suppress(grpc.aio.BaseError):  # it may end by itself just now
                await self._deny(call.context, code)

        await self._calls.end(connection, deny)

    def _remember(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
        # A generic handler takes any name: callers must not fill the memory with them
        self._handlers[method] = handler
        if len(self._handlers) > _MOST_METHODS:
            self._handlers.popitem(last=False)

    def _wrap(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Put the gate before *handler*, and parsing behind the gate."""
        run = runner_of(handler)

        async def guarded(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> Any:
            try:
                with Call(self._calls, method, context):
                    await self._admit(method, context)
                    return await run(request, context)
            except BaseException as error:
                await _end(method, context, error)
                raise

        return shaped_like(handler, guarded)

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
        await self._deny(context, code)

    async def _deny(
        self, context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode
    ) -> None:
        if code is not grpc.StatusCode.UNAVAILABLE:
            await self._refused(context, code)
        await _refuse(context, code)

    def _code(
        self, method: str, reason: str, error: Exception, event: str = "call refused"
    ) -> grpc.StatusCode:
        """Log and count *error*; return what the caller sees of it."""
        self.refusals[reason] += 1
        peer = getattr(error, "peer_id", None)
        _log.warning(
            event,
            extra={
                "method": method,
                "reason": reason,
                "detail": str(error),
                "peer_id": str(peer) if peer else None,
            },
        )
        if reason in self._unauthenticated:
            return grpc.StatusCode.UNAUTHENTICATED
        if reason in _COME_ANEW:
            return grpc.StatusCode.UNAVAILABLE
        return grpc.StatusCode.PERMISSION_DENIED


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
