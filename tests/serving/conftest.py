"""A real gRPC server around handlers of raw bytes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from serving import new_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

METHOD = "/test.Echo/Call"
STREAM = "/test.Echo/Stream"

Handler = Any  # a grpc.RpcMethodHandler, generic in its stubs only


class Handlers(grpc.GenericRpcHandler):
    """Serve *unary* as `METHOD` and *stream* as `STREAM`."""

    def __init__(self, unary: Any = None, stream: Any = None) -> None:
        self._handlers: dict[str, Handler] = {}
        if unary is not None:
            self._handlers[METHOD] = grpc.unary_unary_rpc_method_handler(unary)
        if stream is not None:
            self._handlers[STREAM] = grpc.unary_stream_rpc_method_handler(stream)

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        return self._handlers.get(details.method)


@asynccontextmanager
async def serving_raw(
    unary: Any = None,
    stream: Any = None,
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    prepare: Callable[[grpc.aio.Server], None] = lambda _: None,
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve the handlers on a free port and yield a channel to them."""
    server = new_server(interceptors)
    server.add_generic_rpc_handlers((Handlers(unary, stream),))
    prepare(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


async def call(
    channel: grpc.aio.Channel, request: bytes = b"", method: str = METHOD
) -> bytes:
    """Call *method* within five seconds."""
    stub: Any = channel.unary_unary(method)
    response: bytes = await stub(request, timeout=5)
    return response


def stream_of(channel: grpc.aio.Channel) -> Any:
    """Start `STREAM`, for five seconds."""
    stub: Any = channel.unary_stream(STREAM)
    return stub(b"", timeout=5)


async def fails(
    channel: grpc.aio.Channel, request: bytes = b""
) -> grpc.aio.AioRpcError:
    """Call `METHOD` and return how it failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, request)
    return caught.value
