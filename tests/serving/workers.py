"""A service of several workers: each tells which it is to whoever connects.

    python -m tests.serving.workers COUNT LISTEN [FAULTY]

The worker with the number FAULTY cannot begin.
"""

from __future__ import annotations

import asyncio
import os
import sys

from serving import FatalError, announce, run_workers, stop_on_signals


async def main(listen: str, number: int, faulty: int) -> None:
    if number == faulty:
        raise FatalError("nothing to work with", "bring something", status=78)
    host, _, port = listen.rpartition(":")

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(os.getpid()).encode())
        writer.close()
        await writer.wait_closed()

    stop = asyncio.Event()
    with stop_on_signals(stop):
        server = await asyncio.start_server(answer, host, int(port), reuse_port=True)
        async with server:
            announce(listen=listen, metrics=f"pid:{os.getpid()}")
            await stop.wait()


if __name__ == "__main__":
    wanted, where, *more = sys.argv[1:]
    bad = int(more[0]) if more else -1
    status = run_workers(
        int(wanted), where, lambda listen, number: main(listen, number, bad)
    )
    sys.exit(status)
