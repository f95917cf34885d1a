"""Somebody at a sandbox's address who has its key and its certificate."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from cubemesh.v1 import picod_pb2
from tlsloader import Acceptor, Allowlist, FixedSource
from tlsloader.grpc import SERVER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tlsloader import Material

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"


class Impostor:
    """Serves whoever comes as the sandbox of *material*, and never ends a command."""

    def __init__(self, material: Material) -> None:
        self._door = Acceptor(FixedSource(material), allow=Allowlist.parse(ROUTER))
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._forever = asyncio.Event()
        self.calls = 0

    @property
    def connections(self) -> int:
        """How many of the Router's connections are open."""
        return self._door.connections

    async def listen(self, address: str) -> Self:
        """Take the address, whoever had it before."""
        execute: Any = grpc.unary_stream_rpc_method_handler(
            self._execute,
            response_serializer=picod_pb2.ExecuteResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(
            "cubemesh.v1.PicoD", {"Execute": execute}
        )
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(self._door.backend)
        await self._server.start()
        await self._door.start(address)
        return self

    async def aclose(self) -> None:
        """Leave."""
        await self._door.aclose()
        await self._server.stop(0)

    async def _execute(
        self, _request: bytes, _context: Any
    ) -> AsyncIterator[picod_pb2.ExecuteResponse]:
        self.calls += 1
        started = picod_pb2.Started(process_id="stolen")
        yield picod_pb2.ExecuteResponse(
            events=[picod_pb2.CommandEvent(started=started)]
        )
        await self._forever.wait()
