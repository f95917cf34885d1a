"""Programs that tell what they do as JSON lines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_ROOT = Path(__file__).parents[2]


class Program:
    """A running program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tells(self, event: str, within: float = 30) -> dict[str, Any]:
        """Return the next line about *event*, or with a field of that name."""
        assert self._process.stdout is not None
        async with asyncio.timeout(within):
            async for line in self._process.stdout:
                found: dict[str, Any] = json.loads(line)
                if event in (found.get("event"), *found):
                    return found
        raise AssertionError(f"it ended without telling of {event}")

    async def interrupted(self) -> int:
        """Ask it to end everything, and return how it ended."""
        self._process.send_signal(signal.SIGINT)
        return await self.status()

    async def status(self, within: float = 30) -> int:
        """Return how it ended."""
        async with asyncio.timeout(within):
            return await self._process.wait()


@asynccontextmanager
async def started(*argv: str, **environ: str) -> AsyncIterator[Program]:
    """Run *argv* while the block runs, with no more of our environment than PATH."""
    told = {"PATH": os.defpath, "GRPC_VERBOSITY": "ERROR", **environ}
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, cwd=_ROOT, env=told
    )
    try:
        yield Program(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
