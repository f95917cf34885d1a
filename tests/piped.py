"""Programs that are heard, and may be answered."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PIPE = asyncio.subprocess.PIPE


@asynccontextmanager
async def piped(
    *argv: str, stderr: int = asyncio.subprocess.STDOUT, within: float = 20
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run *argv* while the block runs, which takes no longer than *within* seconds."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=_PIPE, stdout=_PIPE, stderr=stderr
    )
    try:
        async with asyncio.timeout(within):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
