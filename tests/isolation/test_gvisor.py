"""The level `gvisor`: what is its own; the rest of the list runs on every level."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from picod._errors import IsolationError, RunnerFaultError
from picod._runner import Command, Limits, Output, Runner, Started, Wanted
from tests.isolation.hosts import UIDS
from tests.isolation.levels import isolated, need_gvisor
from tests.picod.sandboxes import python, read, run, singly, write

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.gvisor, pytest.mark.slow]
UID = 20_014 if UIDS[0] else None
TREE = Path(__file__).resolve().parents[2]


def of_user(uid: int) -> list[psutil.Process]:
    """Name the living processes of a user of the host."""
    return [
        process
        for process in psutil.process_iter(["uids", "status"])
        if process.info["uids"].real == uid
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        os.sched_yield()


async def test_it_is_another_kernel() -> None:
    """What the code asks of the kernel, gVisor answers, and not the host's."""
    async with isolated("gvisor") as runner:
        told = await run(runner, "uname", "-r")
        assert b"gvisor" in told.stdout
        assert os.uname().release.encode() not in told.stdout


async def test_files_and_commands_go_through_it() -> None:
    """The runner speaks as behind bwrap: files both ways, output, timing."""
    async with isolated("gvisor") as runner:
        await write(runner, b"folder/in", b"x" * 300_000, make_parents=True)
        code = "tr x y < folder/in > out; stat -c %u:%g:%a folder/in out"
        result = await run(runner, "sh", "-c", code)
        assert result.stdout == b"1000:1000:644\n" * 2
        assert await read(runner, b"out") == b"y" * 300_000
        assert 0 < runner.stages.load < runner.stages.total < 60_000


async def test_ordinary_programs_run() -> None:
    """Threads, processes, sockets and temporary files work as anywhere."""
    code = """
import asyncio, multiprocessing, subprocess, tempfile, threading
def square(number): return number * number
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(square, range(4)) == [0, 1, 4, 9]
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
asyncio.run(main())
with tempfile.TemporaryDirectory() as folder:
    subprocess.run(["git", "init", "-q", folder], check=True)
print("fine")
"""
    async with isolated("gvisor") as runner:
        result = await python(runner, code, timeout=60)
        assert result.stdout == b"fine\n", result.stderr


async def test_a_killed_runsc_leaves_nothing() -> None:
    """When runsc is killed, its kernel and all inside die, and callers are told."""
    async with isolated("gvisor", uid=UID) as runner:
        family = psutil.Process(runner.pid).children(recursive=True)
        async with aclosing(
            singly(runner.execute(Command(("sleep", "100"))))
        ) as events:
            assert isinstance(await anext(events), Started)
            os.kill(runner.pid, signal.SIGKILL)
            with pytest.raises(RunnerFaultError):
                await anext(events)
        await runner.wait_ended()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


STARTER = """
import asyncio
from tests.isolation.levels import isolated
from tests.picod.sandboxes import run
async def main():
    async with isolated("gvisor", uid=UID) as runner:
        print("up", flush=True)
        await run(runner, "sh", "-c", "setsid sleep 1000 & sleep 1000")
asyncio.run(main())
"""


@pytest.mark.skipif(UID is None, reason="tells its processes by their own user")
def test_nothing_survives_a_killed_service() -> None:
    """When the process that holds a sandbox is killed, gVisor goes with it."""
    need_gvisor()
    assert UID is not None
    argv = [sys.executable, "-c", STARTER.replace("UID", str(UID))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=TREE) as service:
        assert service.stdout
        assert service.stdout.readline() == b"up\n"
        assert of_user(UID)
        service.kill()
    until(lambda: not of_user(UID))


async def test_memory_of_its_processes_is_watched() -> None:
    """Also without a control group, processes that hold too much together end."""
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        held = b"x" * (80 << 20)
        time.sleep(60)
time.sleep(60)
"""
    limits = Limits(memory=160 << 20)
    async with isolated("gvisor", limits=limits) as runner:
        result = await python(runner, code, timeout=40)
        assert result.exited.signal == 9
        assert await runner.incident() == "OUT_OF_MEMORY"


async def test_a_bomb_of_forks_stays_inside() -> None:
    """Processes of the code are limited, and end with the command or the sandbox."""
    code = (
        "import os\nwhile True:\n try: os.fork()\n except OSError: print(1, flush=True)"
    )
    limits = Limits(processes=40)
    async with isolated("gvisor", uid=UID, limits=limits) as runner:
        seen = b""
        command = Command(("/usr/bin/python3", "-c", code), timeout=20)
        async with aclosing(singly(runner.execute(command))) as events:
            async for event in events:
                if isinstance(event, Output):
                    seen = event.data
                    break
        assert seen.startswith(b"1")
        try:
            assert (await run(runner, "true")).code == 0
        except RunnerFaultError:  # gVisor may fork faster than it kills
            await runner.wait_ended()


async def test_without_runsc_there_is_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where runsc is missing the start says so, and what to do."""
    monkeypatch.setattr("picod._gvisor.shutil.which", _no_runsc)
    with pytest.raises(IsolationError, match="runsc") as caught:
        await Runner.start("x", Wanted(level="gvisor", uid=UIDS[0], folder=tmp_path))
    assert "isolation: bwrap" in caught.value.hint


def _no_runsc(name: str) -> str | None:
    return None if name == "runsc" else name
