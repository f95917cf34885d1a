from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.workloadmanager.engine import until
from workloadmanager._census import Census, Registry, end_all
from workloadmanager._process import Mark, Process, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT = "import signal; signal.pause()"
FAMILY = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()  # a session of its own, like a daemon
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(1, b"ready\\n")
signal.pause()
"""


@contextmanager
def started(tmp_path: Path, code: str, *words: str) -> Iterator[tuple[Mark, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    argv = [sys.executable, "-I", "-S", "-c", code, *words]
    mark = start(argv, {"SECRET": "no"}, (writing, log))
    os.close(writing)
    try:
        yield mark, reading
    finally:
        for descriptor in (reading, log):
            os.close(descriptor)


async def test_a_process_shares_nothing_with_us(tmp_path: Path) -> None:
    """Own session, no environment but what it is given, no descriptors, no input."""
    code = (
        "import os, signal; print(os.getsid(0) == os.getpid(), dict(os.environ), "
        "sorted(map(int, os.listdir('/proc/self/fd')))[:4], os.read(0, 1), "
        "signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, flush=True)"
    )
    with started(tmp_path, code) as (mark, reading):
        process = Process.of_child(mark)
        async with asyncio.timeout(10):
            await process.ended.wait()
        told = os.read(reading, 4096).decode()
    # The fourth descriptor is the one that lists them.
    assert told.startswith("True {'SECRET': 'no'"), told
    assert "[0, 1, 2, 3] b''" in told
    assert process.status == 0


async def test_the_end_of_a_process_is_seen_at_once(tmp_path: Path) -> None:
    """No polling: its pidfd wakes us, and no zombie stays."""
    with started(tmp_path, WAIT) as (mark, _):
        process = Process.of_child(mark)
        heard: list[bool] = []
        process.on_end(lambda: heard.append(True))
        assert mark.alive
        process.kill()
        async with asyncio.timeout(10):
            await process.ended.wait()
    assert heard == [True]
    assert process.status == signal.SIGKILL
    assert not mark.alive
    assert Process.watch(mark) is None
    process.kill()  # nobody is hit any more
    process.close()


async def test_a_number_used_again_is_another_process() -> None:
    """Somebody else with the pid of a dead sandbox is left alone."""
    ours = Mark.of(os.getpid())
    assert ours is not None
    stranger = Mark(ours.pid, ours.started + 1)
    assert not stranger.alive
    assert Process.watch(stranger) is None
    await end_all([stranger])


async def test_the_whole_family_is_found_and_killed(tmp_path: Path) -> None:
    """Children that changed session and ignore SIGTERM are no exception."""
    with started(tmp_path, FAMILY) as (mark, reading):
        process = Process.of_child(mark)
        await asyncio.to_thread(os.read, reading, 6)
        family = Census.take().kin(mark)
        assert len(family) == 3
        assert mark in family
        await end_all(family)
        await until(process.ended.is_set)
        assert Census.take().kin(mark) == set()
        assert not any(each.alive for each in family)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
async def test_whoever_runs_as_the_sandboxes_user_belongs_to_it(tmp_path: Path) -> None:
    """Even a process whose ancestors are all gone."""
    code = "import os, signal; os.setuid(1899999999); os.write(1, b'x'); signal.pause()"
    with started(tmp_path, code) as (mark, reading):
        process = Process.of_child(mark)
        await asyncio.to_thread(os.read, reading, 1)
        assert Census.take().kin(None, 1899999999) == {mark}
        await end_all([mark])
        await until(process.ended.is_set)


async def test_who_asks_at_once_shares_a_census() -> None:
    """But never one that was begun before: it might not know the newest processes."""
    registry = Registry()
    async with asyncio.TaskGroup() as tasks:
        early = [tasks.create_task(registry.census()) for _ in range(50)]
        await asyncio.wait(early, timeout=0)
        late = [tasks.create_task(registry.census()) for _ in range(50)]
    taken = [{id(each.result()) for each in crowd} for crowd in (early, late)]
    assert [len(each) for each in taken] == [1, 1]
    assert taken[0] != taken[1]
    assert os.getpid() in late[0].result().marks
