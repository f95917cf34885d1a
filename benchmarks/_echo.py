"""A gRPC echo on a Unix socket, in a process of its own: the machine's measure.

What a call costs where nothing is done. Machines differ by far more than our figures
do, so absolute ones are read beside this one, taken in the same run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from benchmarks._figures import spread
from serving import run
from tlsloader.grpc import SERVER_OPTIONS, channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["echo"]

_SERVICE, _METHOD = "echo", "Echo"
_WARM_UP, _CALLS, _SIZE = 200, 1000, 100


async def serve(address: str) -> None:
    """Answer every call with its own request until killed; print when ready."""

    async def same(request: bytes, _context: Any) -> bytes:
        return request

    server = grpc.aio.server(options=SERVER_OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]
    handlers = {_METHOD: grpc.unary_unary_rpc_method_handler(same)}
    handler = grpc.method_handlers_generic_handler(_SERVICE, handlers)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(address)
    await server.start()
    print(json.dumps({"ready": True}), flush=True)
    await asyncio.Event().wait()


async def echo(folder: str) -> dict[str, float | int]:
    """Measure one call at a time; milliseconds. The socket is made in *folder*."""
    address = f"unix:{folder}/echo"
    taken = []
    async with _running(address), channel(address) as opened:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = opened.unary_unary(f"/{_SERVICE}/{_METHOD}")
        for turn in range(_WARM_UP + _CALLS):
            began = time.perf_counter()
            await call(bytes(_SIZE), timeout=30)
            if turn >= _WARM_UP:
                taken.append((time.perf_counter() - began) * 1000)
    return spread(taken)


@asynccontextmanager
async def _running(address: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks._echo", address),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101
    try:
        await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    raise SystemExit(run(serve(sys.argv[1])))
