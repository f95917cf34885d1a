"""Health says what is true, to those who ask and to those who watch."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from serving import Health
from tests.serving.conftest import serving_raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def stub_of(health: Health) -> AsyncIterator[HealthStub]:
    async with serving_raw(prepare=health.add_to) as channel:
        yield HealthStub(channel)


async def status(stub: HealthStub, service: str = "") -> int:
    answer = await stub.Check(HealthCheckRequest(service=service), timeout=5)
    return int(answer.status)


async def test_is_ready_between_start_and_stop() -> None:
    """A service that is not up yet, or going down, wants no calls."""
    health = Health("test.Echo")
    async with stub_of(health) as stub:
        assert await status(stub) == NOT_SERVING
        health.start()
        assert await status(stub) == await status(stub, "test.Echo") == SERVING
        health.stop()
        health.release("stopping")
        health.stop()
        assert await status(stub) == NOT_SERVING


async def test_every_cause_must_be_gone() -> None:
    """Two troubles need two remedies before calls are wanted again."""
    health = Health()
    health.start()
    async with stub_of(health) as stub:
        health.hold("identity expired")
        health.hold("store lost")
        health.release("identity expired")
        assert await status(stub) == NOT_SERVING
        health.release("store lost")
        assert await status(stub) == SERVING


async def test_an_unknown_service_is_not_found() -> None:
    """A misspelt name is told from a sick service."""
    async with stub_of(Health()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status(stub, "test.Nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watchers_see_each_change_and_are_let_go() -> None:
    """A watch ends at stop, so that it never holds up the end of a service."""
    health, seen = Health(), []
    async with stub_of(health) as stub, asyncio.timeout(5):
        async for answer in stub.Watch(HealthCheckRequest()):
            seen.append(answer.status)
            match len(seen):
                case 1:
                    health.start()
                case 2:
                    health.stop()
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]
