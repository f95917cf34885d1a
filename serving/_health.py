"""`grpc.health.v1`: whether the service wants calls, for all who ask or watch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["HEALTH_METHODS", "Health"]

HEALTH_METHODS = "/grpc.health.v1.Health/*"
"""What a policy lists for those who may ask for health."""

_SERVING: int = HealthCheckResponse.SERVING
_NOT_SERVING: int = HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Ready once `start` was called and as long as nothing holds it back.

    *services* are the full names of gRPC services that can be asked for, beside
    ``""`` for the whole process. Used from the event loop only.
    """

    def __init__(self, *services: str) -> None:
        self._services = frozenset(("", *services))
        self._blocks: set[str] = {"starting"}
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether calls are wanted."""
        return not self._blocks

    def start(self) -> None:
        """Say that start-up is over; `serve` does."""
        self.release("starting")

    def stop(self) -> None:
        """Be not ready for good; watchers are told and let go."""
        self._ended = True
        self.hold("stopping")

    def hold(self, cause: str) -> None:
        """Be not ready until *cause*, e.g. "identity expired", is released."""
        self._blocks.add(cause)
        self._tell()

    def release(self, cause: str) -> None:
        """Take *cause* back; unknown causes are no fault."""
        self._blocks.discard(cause)
        self._tell()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve `grpc.health.v1.Health` on *server*; `new_server` does."""
        health_pb2_grpc.add_HealthServicer_to_server(_Servicer(self), server)

    def status(self, service: str) -> int:
        """Return the status of *service*, SERVICE_UNKNOWN for a strange name."""
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if self.ready else _NOT_SERVING

    async def watch(self, service: str) -> AsyncIterator[int]:
        """Yield the status now and at each change, until `stop`."""
        last = None
        while True:
            changed, ended = self._changed, self._ended
            if (status := self.status(service)) != last:
                yield (last := status)
            if ended:
                return
            await changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Servicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # untyped
    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(  # noqa: N802
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> HealthCheckResponse:
        status = self._health.status(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[HealthCheckResponse]:
        del context
        async for status in self._health.watch(request.service):
            yield HealthCheckResponse(status=status)
