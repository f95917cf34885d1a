"""Workers share a port, begin together, and end together, however one of them ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.fakes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.slow
_REPOSITORY = Path(__file__).parents[2]


@dataclass
class Family:
    """The parent of workers, and what it said when all were ready."""

    process: asyncio.subprocess.Process
    said: dict[str, Any]

    @property
    def workers(self) -> list[int]:
        return [int(each.removeprefix("pid:")) for each in self.metrics]

    @property
    def metrics(self) -> list[str]:
        return str(self.said["metrics"]).split(",")

    async def ask(self) -> int:
        host, _, port = self.said["listen"].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            return int(await reader.read())
        finally:
            writer.transport.abort()

    async def end(self) -> int:
        status = await self.process.wait()
        await until(lambda: not any(map(psutil.pid_exists, self.workers)))
        return status


@asynccontextmanager
async def started(*argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.serving.workers", *argv),
        cwd=_REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@asynccontextmanager
async def family(count: int = 2, listen: str = "127.0.0.1:0") -> AsyncIterator[Family]:
    async with started(str(count), listen) as process:
        assert process.stdout is not None
        yield Family(process, json.loads(await process.stdout.readline()))


async def test_one_line_speaks_for_all() -> None:
    """One address for all of them, with a real port, and what each has for itself."""
    async with family(3) as found:
        assert found.said["ready"] is True
        assert not found.said["listen"].endswith(":0")
        below = psutil.Process(found.process.pid).children()
        assert sorted(found.workers) == sorted(each.pid for each in below)
        assert len(found.workers) == 3


async def test_connections_are_spread_over_all() -> None:
    """Whoever connects often enough meets every worker, and nobody else."""
    async with family() as found:
        met: set[int] = set()
        while met != set(found.workers):
            met.add(await found.ask())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_is_passed_on(how: signal.Signals) -> None:
    """Told to end, all do, in order: status 0."""
    async with family() as found:
        found.process.send_signal(how)
        assert await found.end() == 0


async def test_ctrl_c_in_a_terminal_is_heard_once() -> None:
    """Workers are in no group of the terminal's, so it cannot hurry them by itself."""
    async with family() as found:
        groups = {os.getpgid(pid) for pid in found.workers}
        assert groups == set(found.workers)


async def test_the_death_of_one_is_the_end_of_all() -> None:
    """Half a service is none: its status tells what happened, and all can restart."""
    async with family() as found:
        os.kill(found.workers[1], signal.SIGKILL)
        assert await found.end() == 128 + signal.SIGKILL


async def test_workers_do_not_outlive_their_parent() -> None:
    """Not even where it had no time to tell them."""
    async with family() as found:
        found.process.kill()
        await found.end()


async def test_one_that_cannot_begin_is_told() -> None:
    """Its words and status are those of all, and nothing is announced."""
    async with started("2", "127.0.0.1:0", "1") as process:
        said, errors = await process.communicate()
        assert (said, process.returncode) == (b"", 78)
        assert b"error: nothing to work with\nhint: bring something" in errors


async def test_the_port_of_others_is_not_shared() -> None:
    """A second service with workers is refused, although both share their ports."""
    async with family() as found, started("2", found.said["listen"]) as second:
        _, errors = await second.communicate()
        assert second.returncode == 69
        assert b"another process listens there" in errors
