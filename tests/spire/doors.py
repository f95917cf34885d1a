"""A health service behind our acceptor, and calls to one through our dialer."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tlsloader import Acceptor, Allowlist, Dialer, SpiffeID
from tlsloader.grpc import SERVER_OPTIONS, Gate, channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tlsloader import Source


@asynccontextmanager
async def serving(source: Source, *allow: str) -> AsyncIterator[tuple[Acceptor, str]]:
    """Serve those that *allow* names; yield the door and its address."""
    acceptor = Acceptor(source, allow=Allowlist.parse(*allow))
    gate = Gate(lambda _method, context: acceptor.peer(context.peer()))
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[gate])
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    server.add_insecure_port(acceptor.backend)
    await server.start()
    try:
        yield acceptor, await acceptor.start("127.0.0.1:0")
    finally:
        await acceptor.aclose()
        await server.stop(0)


class Line:
    """A channel through a dialer."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(opened)

    async def call(self) -> None:
        """Call once; it must be served."""
        answer = await self._stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def refusal(self) -> str:
        """Call once; return why it was not served."""
        try:
            await self.call()
        except grpc.aio.AioRpcError as error:
            return error.details() or ""
        raise AssertionError("the call was served")


@asynccontextmanager
async def calling(source: Source, address: str, expected: str) -> AsyncIterator[Line]:
    """Call the server at *address*, which has to be *expected*."""
    dialer = Dialer(source, expected=SpiffeID.parse(expected), address=address)
    opened = channel(await dialer.start())
    try:
        yield Line(opened)
    finally:
        await opened.close()
        await dialer.aclose()
