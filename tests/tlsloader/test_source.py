"""Files as a source: its beginning, what it tells, whom it tells, and its end."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify_c import InotifyFD

from tests.fakes import FakeClock, running, until
from tests.forge import Forge
from tests.spire.programs import started
from tests.tlsloader.followed import ROUTER, following, in_place, polled
from tlsloader import (
    BundlePaths,
    FileSource,
    FixedSource,
    Material,
    MaterialError,
    Paths,
)

FOLLOWER = (sys.executable, "-m", "tests.tlsloader.follower")

# The first load


async def test_loads_what_is_there(forge: Forge, tmp_path: Path) -> None:
    """Good files are the first generation."""
    svid = forge.svid(ROUTER)
    source = await FileSource.load(forge.put(tmp_path, svid), wait=0)
    assert source.current().leaf_sha256 == svid.leaf_sha256
    assert (source.generation, source.failures, source.usable) == (1, 0, True)


async def test_waits_for_the_first_files(tmp_path: Path) -> None:
    """A service may start before whoever writes its identity."""
    clock = FakeClock()
    forge = Forge("cluster.local", clock.now())
    paths = Paths(*(tmp_path / name for name in ("key.pem", "svid.pem", "bundle.pem")))
    async with asyncio.TaskGroup() as group:
        loading = group.create_task(FileSource.load(paths, clock=clock, wait=30))
        await clock.advance(29)
        forge.write(tmp_path, ROUTER)
    assert loading.result().generation == 1


async def test_gives_up_waiting_loudly(tmp_path: Path) -> None:
    """After the wait the service fails, and says which file it missed."""
    clock = FakeClock()
    paths = Forge("cluster.local", clock.now()).write(tmp_path, ROUTER)
    paths.key.unlink()
    async with running(clock.advance(30)):
        with pytest.raises(MaterialError, match=re.escape(str(paths.key))) as caught:
            await FileSource.load(paths, clock=clock, wait=30)
    assert caught.value.reason == "file_missing"


async def test_says_once_what_it_waits_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten looks a second do not fill the log."""
    paths = Paths(*(tmp_path / name for name in ("key.pem", "svid.pem", "bundle.pem")))
    clock = FakeClock()

    async def pass_time() -> None:
        for _ in range(11):
            await clock.advance(0.1)

    async with running(pass_time()):
        with pytest.raises(MaterialError):
            await FileSource.load(paths, clock=clock, wait=1)
    assert [record.message for record in caplog.records] == ["identity awaited"]


async def test_does_not_start_with_an_expired_identity(
    forge: Forge, tmp_path: Path
) -> None:
    """What nobody would admit is no identity to start with."""
    paths = forge.write(tmp_path, ROUTER, age=7200, life=-1)
    with pytest.raises(MaterialError) as caught:
        await FileSource.load(paths, wait=0)
    assert caught.value.reason == "expired"


async def test_one_file_may_hold_key_and_chain(forge: Forge, tmp_path: Path) -> None:
    """A credential bundle is read by one open: a rename of it is never torn."""
    file, first, second = tmp_path / "credential.pem", *_two(forge)
    roots = forge.put(tmp_path, first).bundle
    paths = Paths(file, file, roots)
    _replace(file, first.key + first.chain)
    async with following(paths) as followed:
        _replace(file, second.key + second.chain)
        await followed.shows(second)
        assert followed.source.failures == 0
        in_place(file, second.key)
        assert str(file) in await followed.keeps("no_certificates")


@pytest.mark.slow
def test_one_file_is_never_read_twice(forge: Forge, tmp_path: Path) -> None:
    """Renamed over as fast as can be, it never gives a key of another leaf."""
    file, over = tmp_path / "credential.pem", threading.Event()
    pairs = [svid.key + svid.chain for svid in _two(forge)]
    roots = forge.put(tmp_path, forge.svid(ROUTER)).bundle
    _replace(file, pairs[0])

    def replace() -> None:
        while not over.is_set():
            for pair in pairs:
                _replace(file, pair)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(300):
            Material.load(Paths(file, file, roots), now=forge.now)
    finally:
        over.set()
        writer.join()


def _two(forge: Forge) -> tuple[Any, Any]:
    return forge.svid(ROUTER), forge.svid(ROUTER)


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_bytes(data)
    new.replace(path)


# What it tells


async def test_bad_files_do_not_fill_the_log(forge: Forge, tmp_path: Path) -> None:
    """A state that stays bad is counted and told once, however often it is seen."""
    paths = forge.write(tmp_path, ROUTER)
    good = paths.key.read_bytes()
    async with polled(paths, forge) as followed:
        in_place(paths.key, b"junk")
        for _ in range(3):
            await followed.look()
        await followed.keeps("not_pem")
        assert followed.records.empty()
        paths.key.unlink()
        await followed.look()
        await followed.keeps("file_missing")
        in_place(paths.key, good)
        await followed.look()
        in_place(paths.key, b"junk")
        await followed.look()
        await followed.keeps("not_pem")
    assert followed.source.refusals == {"not_pem": 2, "file_missing": 1}


async def test_knows_when_all_was_well(forge: Forge, tmp_path: Path) -> None:
    """When a look last found nothing wrong, and how old what is in use is."""
    paths = forge.write(tmp_path, ROUTER)
    async with polled(paths, forge) as followed:
        source, start = followed.source, forge.now
        await followed.look()
        assert (source.confirmed, source.age) == (start + timedelta(seconds=5), 5)
        in_place(paths.key, b"junk")
        await followed.look()
        assert (source.confirmed, source.age) == (start + timedelta(seconds=5), 10)
        forge.put(tmp_path, forge.svid(ROUTER))
        await followed.look()
        assert (source.confirmed, source.age) == (start + timedelta(seconds=15), 0)


async def test_logs_each_generation(
    forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says who we are, by which leaf, until when, and whom we trust."""
    caplog.set_level(logging.INFO, "tlsloader")
    svid, other = forge.svid(ROUTER), Forge("other.test")
    (tmp_path / "other.pem").write_bytes(other.bundle)
    bundles = BundlePaths({"other.test": tmp_path / "other.pem"})
    await FileSource.load(forge.put(tmp_path / "own", svid), bundles, wait=0)
    (record,) = caplog.records
    fields, leaf = vars(record), svid.certificates[0]
    assert record.message == "identity loaded"
    assert (fields["identity"], fields["generation"]) == (ROUTER, 1)
    assert (fields["source"], fields["leaf_sha256"]) == ("files", svid.leaf_sha256)
    assert fields["not_before"] == leaf.not_valid_before_utc.isoformat()
    assert fields["not_after"] == leaf.not_valid_after_utc.isoformat()
    assert fields["bundles"] == {
        "cluster.local": forge.trust.fingerprint[:16],
        "other.test": other.trust.fingerprint[:16],
    }


# Whom it tells


async def test_a_failing_subscriber_harms_nobody(forge: Forge, tmp_path: Path) -> None:
    """Who cannot take the news does not keep it from the others."""

    def fail(_: Material) -> None:
        raise RuntimeError("no")

    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    source = await FileSource.load(paths, wait=0)
    told: asyncio.Queue[Material] = asyncio.Queue()
    source.subscribe(fail)
    source.subscribe(told.put_nowait)
    async with running(source.follow()):
        for _ in range(2):
            svid = forge.svid(ROUTER)
            forge.put(tmp_path, svid)
            while (await told.get()).leaf_sha256 != svid.leaf_sha256:
                pass  # of two files that were renamed one by one


async def test_an_unsubscribed_one_hears_no_more(forge: Forge, tmp_path: Path) -> None:
    """A subscription ends when its end is called, even twice."""
    paths = forge.write(tmp_path, ROUTER)
    silent: list[Material] = []
    async with following(paths) as followed:
        end = followed.source.subscribe(silent.append)
        end()
        end()
        svid = forge.svid(ROUTER)
        forge.put(tmp_path, svid)
        await followed.shows(svid)
    assert silent == []


# Beside others, and at its end


async def test_two_sources_may_follow_one_folder(forge: Forge, tmp_path: Path) -> None:
    """Readers do not disturb each other, nor does the end of one."""
    paths = forge.write(tmp_path, ROUTER)
    async with following(paths) as one:
        async with following(paths) as other:
            svid = forge.svid(ROUTER)
            forge.put(tmp_path, svid)
            await one.shows(svid)
            await other.shows(svid)
        svid = forge.svid(ROUTER)
        forge.put(tmp_path, svid)
        await one.shows(svid)
    assert other.source.current() != one.source.current()


@pytest.mark.slow
async def test_a_fork_changes_nothing(forge: Forge, tmp_path: Path) -> None:
    """A child knows what its parent knew, and by its end the parent hears on."""
    first, second, third = (forge.svid(ROUTER) for _ in range(3))
    forge.put(tmp_path, first)
    async with started(*FOLLOWER, str(tmp_path), "--fork-at", "2") as follower:
        told = await follower.tells("identity loaded")
        assert told["leaf_sha256"] == first.leaf_sha256
        forge.put(tmp_path, second)
        told = await follower.tells("forked")
        assert told["leaf_sha256"] == second.leaf_sha256
        forge.put(tmp_path, third)
        while told["leaf_sha256"] != third.leaf_sha256:
            told = await follower.tells("identity loaded")


@pytest.mark.slow
async def test_can_be_read_and_ended_at_any_moment(
    forge: Forge, tmp_path: Path
) -> None:
    """Readers in other threads see whole generations; an end in a look is an end."""
    paths = forge.write(tmp_path, ROUTER)
    source = await FileSource.load(paths, wait=0)
    over = threading.Event()

    def read() -> int:
        reads = 0
        while not over.is_set():
            held = source.current()
            assert held.generation >= 1
            assert held.chain.startswith(b"-----BEGIN")
            reads += 1
        return reads

    reader = asyncio.create_task(asyncio.to_thread(read))  # noqa: TID251
    for turns in range(40):
        async with running(source.follow(poll=0.001)):
            forge.put(tmp_path, forge.svid(ROUTER))
            for _ in range(turns):
                await asyncio.sleep(0)  # noqa: TID251 -- let it go that far
    over.set()
    assert await reader > 0
    assert not _threads()


def _threads() -> int:
    return sum(isinstance(each, InotifyFD) for each in threading.enumerate())


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _watches() -> int:
    """Count the watches that the kernel keeps for this process."""
    count = 0
    for file in Path("/proc/self/fdinfo").iterdir():
        try:
            count += file.read_text().count("inotify wd:")
        except OSError:  # it was that of the folder that we list
            continue
    return count


async def test_leaves_nothing_open(forge: Forge, tmp_path: Path) -> None:
    """A source that is no longer followed holds no descriptor, thread or watch."""
    paths, before = forge.write(tmp_path, ROUTER), (_descriptors(), _watches())
    for _ in range(5):
        async with following(paths) as followed:
            start = followed.source.confirmed
            await until(lambda: followed.source.confirmed > start)  # noqa: B023
            assert (_threads(), _watches()) == (1, before[1] + 2)
    async with asyncio.timeout(5):
        await until(lambda: (_descriptors(), _watches()) == before)
    assert not _threads()


@pytest.mark.slow
async def test_many_rotations_cost_nothing_that_stays(
    forge: Forge, tmp_path: Path
) -> None:
    """100 in a row, by three kinds of writers: descriptors, threads, watches as one."""
    paths = forge.write(tmp_path, ROUTER)
    async with following(paths) as followed:
        async with asyncio.timeout(5):
            await until(_watches)
        before = _descriptors(), threading.active_count(), _watches()
        for number in range(100):
            svid = forge.svid(ROUTER)
            if number % 3 == 0:
                in_place(paths.chain, svid.chain)
                in_place(paths.key, svid.key)
            else:
                if number % 3 == 1:
                    paths.key.unlink()
                forge.put(tmp_path, svid)
            await followed.shows(svid)
        assert followed.source.generation == 101
        async with asyncio.timeout(5):
            await until(
                lambda: (_descriptors(), threading.active_count(), _watches()) <= before
            )


def test_a_fixed_source_never_changes(forge: Forge) -> None:
    """A material alone is a source, too."""
    material = forge.material(ROUTER)
    source = FixedSource(material)
    end = source.subscribe(lambda _: pytest.fail("told of news"))
    assert source.current() is material
    assert source.current().not_after - forge.now < timedelta(hours=1, seconds=1)
    end()
