"""A block around every call that a server handles, whichever of gRPC's four kinds."""

from __future__ import annotations

from contextlib import aclosing
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractContextManager

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["Around", "code_of"]

_METHOD_LIMIT = 200  # a forwarded service may have names we never heard of
_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


class Around(grpc.aio.ServerInterceptor):
    """Enters `block` for each call, and leaves it when the call is over."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    def block(self, method: str, context: Context) -> AbstractContextManager[Any]:
        """Return what stands around one call of *method*, e.g. ``/pkg.S/M``."""
        raise NotImplementedError

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Put the block around the method's handler, made once per method."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        if handler is None:
            return handler
        if known is None and len(self._wrapped) >= _METHOD_LIMIT:
            return self._around(handler, "other")
        wrapped = self._around(handler, method)
        self._wrapped[method] = handler, wrapped
        return wrapped

    def _around(self, handler: Handler, method: str) -> Handler:
        kind = "_".join(
            "stream" if many else "unary"
            for many in (handler.request_streaming, handler.response_streaming)
        )
        inner = getattr(handler, kind)

        async def once(request: Any, context: Context) -> Any:
            with self.block(method, context):
                return await inner(request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            with self.block(method, context):
                async with aclosing(inner(request, context)) as responses:
                    async for response in responses:
                        yield response

        by_hand = not handler.response_streaming or iscoroutinefunction(inner)
        wrapped: Handler = getattr(grpc, f"{kind}_rpc_method_handler")(
            once if by_hand else stream,
            handler.request_deserializer,
            handler.response_serializer,
        )
        return wrapped


def code_of(context: Context, error: BaseException | None) -> str:
    """Name the status that a call ends with, as far as it can be seen here.

    *error* is what leaves its handler.
    """
    code: Any = context.code()
    if code:
        return code.name if isinstance(code, grpc.StatusCode) else _NAMES[int(code)]
    if error is None:
        return "OK"
    return "UNKNOWN" if isinstance(error, Exception) else "CANCELLED"
