"""Events that are lost, limits that are reached, and clocks that are wrong."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from watchdog.observers.inotify_c import InotifyFD

from tests.fakes import FakeClock, until
from tests.spire.programs import started
from tests.tlsloader.followed import ROUTER, following, in_place, polled
from tests.tlsloader.transport import PICOD, hosted, way
from tlsloader._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.forge import Forge

_READ_AT_ONCE = 4096  # what its reader may take before it has to stop

# No events


def _limit() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def _kernel() -> InotifyFD:
    """Return the thread that reads the kernel's events."""
    (found,) = (each for each in threading.enumerate() if isinstance(each, InotifyFD))
    return found


@pytest.mark.slow
async def test_a_queue_that_overflows_is_a_reason_to_look(
    forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the kernel dropped the events of a rotation, it is found all the same."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    others, events = [tmp_path / "a", tmp_path / "b"], _limit()
    async with following(paths) as followed:
        start = followed.source.confirmed
        async with asyncio.timeout(5):
            await until(lambda: followed.source.confirmed > start)  # its first look
        # nobody reads events while this is held
        with _kernel()._lock:
            _flood(others, events)
            forge.put(tmp_path, svid)
        await followed.shows(svid)
        assert followed.source.failures == 0
    assert "queue overflowed" in caplog.text


def _flood(files: list[Path], events: int) -> None:
    """Cause more than *events* events, none of them about one of our files."""
    for number in range(events + _READ_AT_ONCE + 1):
        # alike ones in a row would be one
        os.close(os.open(files[number % 2], os.O_CREAT | os.O_WRONLY, 0o600))


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
async def test_without_inotify_files_are_polled(
    forge: Forge, tmp_path: Path, limit: str
) -> None:
    """The kernel refuses a watch (ENOSPC) or a queue (EMFILE): said, then polled."""
    # root of a user namespace has limits of its own to set
    inside = ("/usr/bin/unshare", "--user", "--map-root-user")
    if (await asyncio.to_thread(subprocess.run, (*inside, "true"))).returncode:
        pytest.skip("this machine allows no user namespace")
    forge.write(tmp_path, ROUTER)
    script = f'echo 0 >/proc/sys/user/{limit} && exec "$@"'
    argv = (*inside, "sh", "-c", script, "sh", sys.executable)
    program = ("-m", "tests.tlsloader.follower", str(tmp_path), "--poll", "0.1")
    async with started(*argv, *program) as follower:
        told = await follower.tells("inotify is not to be had")
        assert "polling only" in told["detail"]
        svid = forge.svid(ROUTER)
        forge.put(tmp_path, svid)
        while told.get("leaf_sha256") != svid.leaf_sha256:
            told = await follower.tells("identity loaded")


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open nothing while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_inotify_is_had_once_there_is_room(
    forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Deaf for want of descriptors, a watch hears again once there are some."""
    paths = forge.write(tmp_path, ROUTER)
    heard = asyncio.Event()
    with Watch([paths.key], heard.set) as watch:
        with no_more_descriptors():
            watch.arm()
            watch.arm()
        assert caplog.messages == ["inotify is not to be had"]  # once
        watch.arm()
        in_place(paths.key, b"x")
        async with asyncio.timeout(5):
            await heard.wait()


async def test_survives_a_want_of_descriptors(forge: Forge, tmp_path: Path) -> None:
    """What cannot be opened is kept, with a hint that fits, and read later."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with polled(paths, forge) as followed:
        before = followed.source.current()
        forge.put(tmp_path, svid)
        with no_more_descriptors():
            await followed.look()
        assert "limit of open files" in await followed.keeps("file_unreadable")
        assert followed.source.current() is before
        await followed.look()
        await followed.shows(svid)


async def test_content_decides_where_nothing_tells(
    forge: Forge, tmp_path: Path
) -> None:
    """Same size and times, and no event, as on a network's file system: seen."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with polled(paths, forge) as followed:
        for path, data in ((paths.key, svid.key), (paths.chain, svid.chain)):
            stamp = path.stat()
            in_place(path, data)
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        await followed.look()
        await followed.shows(svid)


async def test_times_of_files_say_nothing(forge: Forge, tmp_path: Path) -> None:
    """A file that is older than the one before is as new as its content."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with polled(paths, forge) as followed:
        forge.put(tmp_path, svid)
        for path in (paths.key, paths.chain, paths.bundle):
            os.utime(path, (0, 0))
        await followed.look()
        await followed.shows(svid)
        os.utime(paths.key)
        await followed.look()
    assert followed.source.generation == 2


# Clocks


async def test_a_wall_clock_that_jumps_stops_nothing(
    forge: Forge, tmp_path: Path
) -> None:
    """Looks are due by the monotonic clock: none is missed, none is early."""
    paths = forge.write(tmp_path, ROUTER, age=86_400, life=86_400)
    async with polled(paths, forge) as followed:
        clock = followed.hand
        for seconds in (-7200, 3600, 10_000, -6400):
            clock.set_wall(seconds)
            await clock.advance(4.9)
            assert followed.source.age == followed.clock.monotonic()
            await clock.advance(0.1)
            await clock.advance(0)
            wall = followed.clock.now()
            assert followed.source.confirmed == wall
        assert followed.source.usable
        svid = forge.svid(ROUTER)
        forge.put(tmp_path, svid)
        await followed.look()
        await followed.shows(svid)
    assert followed.source.failures == 0


async def test_a_clock_that_is_set_ahead_is_said_and_got_over(
    forge: Forge, tmp_path: Path
) -> None:
    """Beyond the last good identity: not usable; set right again, it is, each time."""
    paths = forge.write(tmp_path, ROUTER, life=60)
    async with polled(paths, forge) as followed:
        clock = followed.hand
        for _ in range(2):
            clock.set_wall(100)
            assert not followed.source.usable
            for _ in range(3):
                await followed.look()
            await followed.tells("identity expired")
            assert followed.records.empty()
            clock.set_wall(-100)
            await followed.look()
            assert followed.source.usable
            assert followed.records.empty()


async def test_a_clock_that_is_set_back_is_said(forge: Forge, tmp_path: Path) -> None:
    """Before our own leaf: everybody's leaves look like tomorrow's, so we say why."""
    paths = forge.write(tmp_path, ROUTER, age=60)
    async with polled(paths, forge) as followed:
        clock = followed.hand
        clock.set_wall(-3600)
        assert not followed.source.usable
        await followed.look()
        await followed.tells("clock is behind", generation=1)
        clock.set_wall(3600)
        assert followed.source.usable


async def test_a_machine_that_slept_past_the_end_refuses(
    forge: Forge, tmp_path: Path
) -> None:
    """After a suspend the monotonic clock knows nothing; the dates do, at once."""
    clock = FakeClock(forge.now)
    paths = forge.write(tmp_path, PICOD, life=600)
    async with (
        following(paths, clock=clock, poll=5, watch=False) as followed,
        hosted(followed.source, allow=ROUTER, clock=clock) as node,
        way(forge.source(ROUTER), node.address) as out,
    ):
        await clock.advance(0)
        clock.set_wall(3600)
        error = await out.refusal()
        assert error.details()
        assert node.acceptor.refusals["own_identity_expired"] > 0
        clock.set_wall(-3600)
        await out.served()


# Dates


async def test_waits_for_its_day(forge: Forge, tmp_path: Path) -> None:
    """An identity of tomorrow is taken tomorrow, without any further change."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER, age=-60)
    async with polled(paths, forge) as followed:
        clock = followed.hand
        forge.put(tmp_path, svid)
        await followed.look()
        await followed.keeps("not_yet_valid")
        clock.jump(60)
        await followed.look()
        await followed.shows(svid)


async def test_tells_when_it_has_expired(forge: Forge, tmp_path: Path) -> None:
    """The last good identity stays but is no longer usable; the log says so once."""
    paths = forge.write(tmp_path, ROUTER, life=60)
    async with polled(paths, forge) as followed:
        clock = followed.hand
        clock.jump(100)
        assert not followed.source.usable
        assert followed.source.seconds_left < 0
        for _ in range(3):
            await followed.look()
        await followed.tells("identity expired", identity=ROUTER)
        assert followed.records.empty()


async def test_recovers_after_it_has_expired(forge: Forge, tmp_path: Path) -> None:
    """A late renewal makes it usable again by itself."""
    paths = forge.write(tmp_path, ROUTER, life=60)
    svid = forge.svid(ROUTER, life=3600)
    async with polled(paths, forge) as followed:
        clock = followed.hand
        clock.jump(100)
        forge.put(tmp_path, svid)
        await followed.look()
        await followed.shows(svid)
        assert followed.source.usable


async def test_an_expired_renewal_is_not_taken(forge: Forge, tmp_path: Path) -> None:
    """Files that were written too late, or put back from a backup, are refused."""
    paths = forge.write(tmp_path, ROUTER)
    async with polled(paths, forge) as followed:
        before = followed.source.current()
        forge.put(tmp_path, forge.svid(ROUTER, age=7200, life=-1))
        await followed.look()
        assert "expired at" in await followed.keeps("expired")
        assert followed.source.current() is before


async def test_an_older_identity_is_taken_and_said(
    forge: Forge, tmp_path: Path
) -> None:
    """A rollback that is still valid is the operator's will; the log wonders."""
    paths, older = forge.write(tmp_path, ROUTER), forge.svid(ROUTER, age=1800)
    async with polled(paths, forge) as followed:
        forge.put(tmp_path, older)
        await followed.look()
        await followed.shows(older)
        assert "old copy" in await followed.tells("identity is an older one")
