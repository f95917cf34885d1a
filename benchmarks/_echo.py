"""A gRPC echo on a Unix socket, in a process of its own: the machine's yardstick.

What a call costs where nothing is done. Machines differ by far more than our figures
do, so absolute ones are read beside this one, taken in the same run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import grpc.aio

from benchmarks._series import in_rounds, latency
from benchmarks._tls import call, handler, same
from serving import run
from tlsloader.grpc import SERVER_OPTIONS, channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks._series import Series

__all__ = ["echo"]

_WARM_UP, _CALLS = 200, 1000


async def serve(address: str) -> None:
    """Answer every call with its own request until killed; print when ready."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((handler(same),))
    server.add_insecure_port(address)
    await server.start()
    print(json.dumps({"ready": True}), flush=True)
    await asyncio.Event().wait()


async def echo() -> Series:
    """Measure one call at a time."""
    taken = []
    with TemporaryDirectory(prefix="cubemesh-bench-") as folder:
        address = f"unix:{folder}/echo"
        async with _running(address), channel(address) as opened:
            for turn in range(_WARM_UP + _CALLS):
                began = time.perf_counter()
                await call(opened)
                if turn >= _WARM_UP:
                    taken.append((time.perf_counter() - began) * 1000)
    return latency(in_rounds(taken))


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
