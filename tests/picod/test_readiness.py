"""Whether a sandbox can be reached by proof, told at the door that needs none."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clock import SYSTEM
from tests.picod.process import PicoD, identity

pytestmark = pytest.mark.slow

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_not_ready_while_its_identity_is_over() -> None:
    """The WorkloadManager hears at the control door that nobody can be let in."""
    with PicoD() as picod:
        own = picod.folder / "own"
        async with grpc.aio.insecure_channel(f"unix:{picod.control}") as opened:
            stub: Any = health_pb2_grpc.HealthStub(opened)
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
            statuses = (each.status async for each in watch)
            async with asyncio.timeout(30):
                assert await anext(statuses) == SERVING
                picod.sandboxes.now = SYSTEM.now()
                picod.sandboxes.write(own, identity(), life=5)
                assert await anext(statuses) == NOT_SERVING
                assert picod.records("identity loaded")[-1]["generation"] == 2
                picod.sandboxes.write(own, identity())
                assert await anext(statuses) == SERVING
            watch.cancel()
