"""Real runners for tests, and what to ask them."""

from __future__ import annotations

import os
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from picod._runner import Command, Exited, Mode, Open, Output, Runner, Started, Wanted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

T = TypeVar("T")

UID = 20_001 if os.geteuid() == 0 else None
"""The host's user of the sandbox: root needs one to drop to."""


@asynccontextmanager
async def sandbox(**settings: Any) -> AsyncIterator[Runner]:
    """Run a sandbox while the block runs."""
    wanted = Wanted(**{"uid": UID} | settings)
    runner = await Runner.start("sbx-test", wanted)
    try:
        yield runner
    finally:
        await runner.aclose()


@dataclass(frozen=True, slots=True)
class Result:
    """All that a command did."""

    stdout: bytes
    stderr: bytes
    exited: Exited
    pid: int

    @property
    def code(self) -> int | None:
        return self.exited.code


async def singly(batches: AsyncGenerator[list[T], None]) -> AsyncGenerator[T, None]:
    """Yield what comes together one by one."""
    async with aclosing(batches):
        async for batch in batches:
            for each in batch:
                yield each


async def run(runner: Runner, *argv: str, **settings: Any) -> Result:
    """Run a command to its end."""
    written = {"stdout": b"", "stderr": b""}
    pid = 0
    async for event in singly(runner.execute(Command(argv, **settings))):
        match event:
            case Started():
                pid = event.pid
            case Output():
                assert event.offset == len(written[event.stream])
                written[event.stream] += event.data
            case Exited():
                exited = event
    return Result(written["stdout"], written["stderr"], exited, pid)


async def python(runner: Runner, code: str, **settings: Any) -> Result:
    """Run Python code inside."""
    return await run(runner, "/usr/bin/python3", "-I", "-c", code, **settings)


async def write(runner: Runner, path: bytes, data: bytes, **settings: Any) -> None:
    """Write a whole file."""
    opening = Open(path, settings.pop("mode", Mode.TRUNCATE), **settings)
    async with runner.write_file(opening) as upload:
        await upload.write(data)
        await upload.commit(len(data))


async def read(runner: Runner, path: bytes, offset: int = 0, length: int = 0) -> bytes:
    """Read a file, or a part of it."""
    parts = [part async for part in runner.read_file(path, offset, length)]
    return b"".join(part for part in parts if isinstance(part, bytes))


def alive(marker: str) -> list[int]:
    """Name the processes on the host whose command line holds *marker*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line:
                found.append(int(entry.name))
    return found
