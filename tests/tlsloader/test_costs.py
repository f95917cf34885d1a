"""What the transport may cost, as bounds that a busy machine keeps, too."""

from __future__ import annotations

import gc
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import psutil
import pytest

from tests.forge import Forge
from tests.tlsloader.transport import PICOD, ROUTER, hosted, mesh, way

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.slow

BOTH_LOOPS = True

FORGE = Forge()
TARGETS = 60
KIB = 1 << 10


class Context:
    """As much of a call as the gate asks for."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer


async def echo(request: bytes, _context: Any) -> bytes:
    return request


async def _spent(run: Callable[[bytes, Any], Awaitable[bytes]], context: Any) -> float:
    """Return the seconds of this thread's own time that a call takes, at best."""
    best = 1.0
    for _ in range(40):
        start = time.thread_time()
        for _ in range(500):
            await run(b"x", context)
        best = min(best, (time.thread_time() - start) / 500)
    return best


async def test_the_gate_takes_ten_microseconds_at_most() -> None:
    """Dates, bundle and allowlist again for each call, and the call remembered."""
    async with mesh() as one:
        await one.way.call()
        (carried,) = one.node.acceptor._guests
        context, handler = Context(carried.name), grpc.unary_unary_rpc_method_handler
        wrapped = one.node.gate._wrap("/test.Service/Echo", handler(echo))
        guarded: Any = wrapped.unary_unary
        assert await guarded(b"x", context) == b"x"
        took = await _spent(guarded, context) - await _spent(echo, context)
        assert took < 10e-6, f"{took * 1e6:.1f} µs"


async def test_neither_end_of_a_connection_takes_400_kib() -> None:
    """Dialer, channel and acceptor together: what a thousand targets are built of."""
    source, process = FORGE.source(ROUTER), psutil.Process()
    async with hosted(FORGE.source(PICOD)) as node, AsyncExitStack() as stack:

        async def reach() -> None:
            out = await stack.enter_async_context(way(source, node.address))
            await out.call()

        for _ in range(10):
            await reach()
        gc.collect()
        before = process.memory_info().rss
        for _ in range(TARGETS):
            await reach()
        gc.collect()
        each = (process.memory_info().rss - before) / TARGETS / KIB
        assert each < 2 * 400, f"{each:.0f} KiB for both ends"
