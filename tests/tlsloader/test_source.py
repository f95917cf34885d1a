from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clock import SYSTEM
from tests.fakes import FakeClock, running
from tests.forge import Forge, Svid
from tlsloader import FileSource, FixedSource, Material, MaterialError, Paths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from clock import Clock

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
PROMPT = 0.25  # seconds within which a change has to be in use


@dataclass
class Followed:
    """A source whose publications and log records can be awaited."""

    source: FileSource
    seen: asyncio.Queue[Material] = field(default_factory=asyncio.Queue)
    records: asyncio.Queue[logging.LogRecord] = field(default_factory=asyncio.Queue)

    async def shows(self, svid: Svid, within: float = 5) -> None:
        """Return once *svid* is in use."""
        async with asyncio.timeout(within):
            while self.source.current().leaf_sha256 != svid.leaf_sha256:
                await self.seen.get()

    async def keeps(self, reason: str) -> str:
        """Return the text of the next refusal, which must be for *reason*."""
        async with asyncio.timeout(5):
            record = await self.records.get()
        assert (record.message, vars(record)["reason"]) == ("identity kept", reason)
        return str(vars(record)["detail"])


class _Kept(logging.Handler):
    def __init__(self, into: asyncio.Queue[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        record.message = record.getMessage()
        self._into.put_nowait(record)


@asynccontextmanager
async def following(
    paths: Paths,
    foreign: dict[str, Path] | None = None,
    *,
    clock: Clock = SYSTEM,
    poll: float = 60,
    watch: bool = True,
) -> AsyncIterator[Followed]:
    source = await FileSource.load(paths, foreign, clock=clock, wait=0)
    followed = Followed(source)
    source.subscribe(followed.seen.put_nowait)
    handler, logger = _Kept(followed.records), logging.getLogger("tlsloader")
    logger.addHandler(handler)
    try:
        async with running(source.follow(poll=poll, watch=watch)):
            yield followed
    finally:
        logger.removeHandler(handler)


def in_place(path: Path, data: bytes) -> None:
    """Write as spiffe-helper does: truncate, then write."""
    with path.open("wb") as file:
        file.write(data)


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


# Rotation


async def test_takes_a_rotation_at_once(forge: Forge, tmp_path: Path) -> None:
    """New files are the next generation within a quarter of a second."""
    took = []
    async with following(forge.write(tmp_path, ROUTER)) as followed:
        for generation in (2, 3, 4, 5):
            svid = forge.svid(ROUTER)
            forge.put(tmp_path, svid)
            start = SYSTEM.monotonic()
            await followed.shows(svid)
            took.append(SYSTEM.monotonic() - start)
            assert followed.source.generation == generation
    assert followed.source.failures == 0
    assert sorted(took)[1] < PROMPT  # not the worst: other tests share the machine


async def test_is_prompt_after_a_file_was_moved_out(
    forge: Forge, tmp_path: Path
) -> None:
    """A writer that keeps the old file elsewhere does not delay the new one."""
    paths, svid = forge.write(tmp_path / "a", ROUTER), forge.svid(ROUTER)
    async with following(paths) as followed:
        paths.key.rename(tmp_path / "old.pem")
        forge.put(tmp_path / "a", svid)
        await followed.shows(svid, within=2 * PROMPT)


async def test_follows_writes_in_place(forge: Forge, tmp_path: Path) -> None:
    """A writer that truncates is followed through every torn state."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with following(paths) as followed:
        before = followed.source.current()
        in_place(paths.chain, svid.chain[:100])
        await followed.keeps("half_written")
        in_place(paths.chain, b"")
        await followed.keeps("empty_file")
        in_place(paths.chain, svid.chain)
        await followed.keeps("key_mismatch")
        assert followed.source.current() is before
        in_place(paths.key, svid.key)
        await followed.shows(svid)
    assert (followed.source.generation, followed.source.failures) == (2, 3)


async def test_keeps_the_last_good_identity(forge: Forge, tmp_path: Path) -> None:
    """A bad key is refused with the file's name, and the old identity stays."""
    paths = forge.write(tmp_path, ROUTER)
    async with following(paths) as followed:
        before = followed.source.current()
        in_place(paths.key, forge.svid(ROUTER).key)
        assert str(paths.key) in await followed.keeps("key_mismatch")
        assert followed.source.current() is before
    assert (followed.source.generation, followed.source.failures) == (1, 1)


async def test_a_new_root_comes_before_its_leaves(forge: Forge, tmp_path: Path) -> None:
    """A leaf of a root that is not in the bundle waits until the root is."""
    paths = forge.write(tmp_path, ROUTER)
    new = Forge("cluster.local", forge.now)
    svid = new.svid(ROUTER)
    async with following(paths) as followed:
        in_place(paths.key, svid.key)
        in_place(paths.chain, svid.chain)
        await followed.keeps("untrusted_chain")
        in_place(paths.bundle, forge.bundle + new.bundle)
        await followed.shows(svid)
        roots = followed.source.current().bundles["cluster.local"].certificates
    assert len(roots) == 2


async def test_a_change_of_the_bundle_alone_is_a_generation(
    forge: Forge, tmp_path: Path
) -> None:
    """Whom we trust is part of the identity."""
    paths = forge.write(tmp_path, ROUTER)
    async with following(paths) as followed:
        in_place(paths.bundle, forge.bundle + Forge("cluster.local").bundle)
        fresh = await followed.seen.get()
    assert fresh.generation == 2
    assert len(fresh.bundles["cluster.local"].certificates) == 2


async def test_follows_a_kubernetes_volume(forge: Forge, tmp_path: Path) -> None:
    """A swap of the ``..data`` link changes all files at once."""
    volume = tmp_path / "volume"
    names = vars_of(forge.write(volume / "..2030_1", ROUTER))
    (volume / "..data").symlink_to("..2030_1")
    for name in names:
        (volume / name).symlink_to(f"..data/{name}")
    async with following(Paths(*(volume / name for name in names))) as followed:
        for number in (2, 3):
            svid = forge.svid(ROUTER)
            forge.put(volume / f"..2030_{number}", svid)
            (volume / "..data_tmp").symlink_to(f"..2030_{number}")
            (volume / "..data_tmp").rename(volume / "..data")
            shutil.rmtree(volume / f"..2030_{number - 1}")
            await followed.shows(svid)
    assert (followed.source.generation, followed.source.failures) == (3, 0)


def vars_of(paths: Paths) -> tuple[str, str, str]:
    return paths.key.name, paths.chain.name, paths.bundle.name


async def test_files_may_go_and_come_back(forge: Forge, tmp_path: Path) -> None:
    """A file that is deleted is missed but not needed until it returns."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with following(paths) as followed:
        paths.chain.unlink()
        assert str(paths.chain) in await followed.keeps("file_missing")
        in_place(paths.key, svid.key)
        in_place(paths.chain, svid.chain)
        await followed.shows(svid)


async def test_the_folder_may_go_and_come_back(forge: Forge, tmp_path: Path) -> None:
    """A folder that is made anew is followed like the old one, twice."""
    folder = tmp_path / "identity"
    async with following(forge.write(folder, ROUTER)) as followed:
        for _ in range(2):
            shutil.rmtree(folder)
            await followed.keeps("file_missing")
            svid = forge.svid(ROUTER)
            forge.put(folder, svid)
            await followed.shows(svid)
            drain(followed.records)  # it may have looked while we wrote


def drain(records: asyncio.Queue[Any]) -> None:
    while not records.empty():
        records.get_nowait()


async def test_a_hard_link_is_followed(forge: Forge, tmp_path: Path) -> None:
    """A file that is replaced by a link to another counts by its content."""
    paths, svid = forge.write(tmp_path / "a", ROUTER), forge.svid(ROUTER)
    other = forge.put(tmp_path / "b", svid)
    async with following(paths) as followed:
        for mine, theirs in ((paths.key, other.key), (paths.chain, other.chain)):
            mine.unlink()
            os.link(theirs, mine)
        await followed.shows(svid)


async def test_bad_files_do_not_fill_the_log(forge: Forge, tmp_path: Path) -> None:
    """A state that stays bad is counted and told once, however often it is seen."""
    clock = FakeClock(forge.now)
    paths = forge.write(tmp_path, ROUTER)
    async with following(paths, clock=clock, poll=5, watch=False) as followed:
        in_place(paths.key, b"junk")
        for _ in range(3):
            await clock.advance(5)
        await followed.keeps("not_pem")
        assert followed.records.empty()
        paths.key.unlink()
        await clock.advance(5)
        await followed.keeps("file_missing")
    assert followed.source.failures == 2


# What is no change


async def test_the_same_content_is_no_generation(forge: Forge, tmp_path: Path) -> None:
    """A writer that writes the same again does not disturb any connection."""
    clock, svid = FakeClock(forge.now), forge.svid(ROUTER)
    paths = forge.put(tmp_path, svid)
    async with following(paths, clock=clock, poll=5, watch=False) as followed:
        forge.put(tmp_path, svid)
        in_place(paths.bundle, b"# a comment\n" + forge.bundle + forge.bundle)
        await clock.advance(5)
        await clock.advance(5)
    assert (followed.source.generation, followed.source.failures) == (1, 0)


async def test_sees_a_change_that_no_stamp_shows(forge: Forge, tmp_path: Path) -> None:
    """Content decides: same size, same times, no event, and still it is seen."""
    clock, paths = FakeClock(forge.now), forge.write(tmp_path, ROUTER)
    stamp = paths.bundle.stat()
    async with following(paths, clock=clock, poll=5, watch=False) as followed:
        await clock.advance(5)
        new = forge.bundle + Forge("cluster.local").bundle
        in_place(paths.bundle, new)
        os.utime(paths.bundle, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        await clock.advance(5)
        assert (await followed.seen.get()).generation == 2


@pytest.mark.slow
async def test_a_burst_is_one_look(forge: Forge, tmp_path: Path) -> None:
    """Files that change together are judged together, not one by one."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with following(paths) as followed:
        for path, data in ((paths.key, svid.key), (paths.chain, svid.chain)):
            for end in range(1, len(data), 7):
                in_place(path, data[:end])
            in_place(path, data)
        await followed.shows(svid)
    assert followed.source.generation == 2


# Dates


async def test_waits_for_its_day(forge: Forge, tmp_path: Path) -> None:
    """An identity of tomorrow is taken tomorrow, without any further change."""
    clock = FakeClock(forge.now)
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER, age=-60)
    async with following(paths, clock=clock, poll=5, watch=False) as followed:
        forge.put(tmp_path, svid)
        await clock.advance(5)
        await followed.keeps("not_yet_valid")
        clock.jump(60)
        await clock.advance(5)
        await followed.shows(svid)


async def test_tells_when_it_has_expired(forge: Forge, tmp_path: Path) -> None:
    """The last good identity stays but is no longer usable; the log says so once."""
    clock = FakeClock(forge.now)
    paths = forge.write(tmp_path, ROUTER, life=60)
    async with following(paths, clock=clock, poll=5, watch=False) as followed:
        clock.jump(100)
        assert not followed.source.usable
        for _ in range(3):
            await clock.advance(5)
        record = await followed.records.get()
        assert record.message == "identity expired"
        assert followed.records.empty()
        clock.jump(-100)
        assert followed.source.usable


async def test_recovers_after_it_has_expired(forge: Forge, tmp_path: Path) -> None:
    """A late renewal makes it usable again by itself."""
    clock = FakeClock(forge.now)
    paths = forge.write(tmp_path, ROUTER, life=60)
    svid = forge.svid(ROUTER, life=3600)
    async with following(paths, clock=clock, poll=5, watch=False) as followed:
        clock.jump(100)
        forge.put(tmp_path, svid)
        await clock.advance(5)
        await followed.shows(svid)
        assert followed.source.usable


# Foreign bundles


async def test_a_withdrawn_bundle_is_dropped(forge: Forge, tmp_path: Path) -> None:
    """Deleting another domain's bundle ends the trust in it; writing it begins it."""
    other = Forge("other.test", forge.now)
    file = tmp_path / "bundles" / "other.pem"
    file.parent.mkdir()
    file.write_bytes(other.bundle)
    paths = forge.write(tmp_path / "own", ROUTER)
    async with following(paths, {"other.test": file}) as followed:
        assert "other.test" in followed.source.current().bundles
        file.unlink()
        assert "other.test" not in (await followed.seen.get()).bundles
        file.write_bytes(other.bundle)
        assert "other.test" in (await followed.seen.get()).bundles


async def test_a_broken_bundle_is_not_a_withdrawn_one(
    forge: Forge, tmp_path: Path
) -> None:
    """A torn foreign bundle keeps the last good one, as with our own."""
    other = Forge("other.test", forge.now)
    file = tmp_path / "other.pem"
    file.write_bytes(other.bundle)
    paths = forge.write(tmp_path / "own", ROUTER)
    async with following(paths, {"other.test": file}) as followed:
        in_place(file, b"")
        assert str(file) in await followed.keeps("empty_file")
        assert followed.source.current().bundles["other.test"] == other.trust


async def test_misses_a_foreign_bundle_at_the_start(
    forge: Forge, tmp_path: Path
) -> None:
    """A bundle that a flag names has to be there once."""
    gone = tmp_path / "other.pem"
    paths = forge.write(tmp_path / "own", ROUTER)
    with pytest.raises(MaterialError, match=re.escape(str(gone))):
        await FileSource.load(paths, {"other.test": gone}, wait=0)


# Subscribers


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
        forge.put(tmp_path, svid)
        assert (await told.get()).leaf_sha256 == svid.leaf_sha256


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


async def test_warns_of_a_key_that_others_can_read(
    forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A private key that is not private is said, once per generation."""
    paths = forge.write(tmp_path, ROUTER)
    await FileSource.load(paths, wait=0)
    assert "identity key exposed" not in caplog.messages
    paths.key.chmod(0o644)
    await FileSource.load(paths, wait=0)
    assert "identity key exposed" in caplog.messages


async def test_logs_each_generation(
    forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line per generation says who we are, until when, and by which leaf."""
    caplog.set_level(logging.INFO, "tlsloader")
    svid = forge.svid(ROUTER)
    await FileSource.load(forge.put(tmp_path, svid), wait=0)
    (record,) = caplog.records
    fields = vars(record)
    assert record.message == "identity loaded"
    assert (fields["identity"], fields["generation"]) == (ROUTER, 1)
    assert fields["leaf_sha256"] == svid.leaf_sha256
    assert fields["not_after"] == svid.certificates[0].not_valid_after_utc.isoformat()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_leaves_nothing_open(forge: Forge, tmp_path: Path) -> None:
    """A source that is no longer followed holds no descriptor."""
    paths = forge.write(tmp_path, ROUTER)
    async with following(paths):
        pass
    before = descriptors()
    for _ in range(5):
        async with following(paths):
            await asyncio.to_thread(os.stat, paths.key)
    assert descriptors() == before


def test_a_fixed_source_never_changes(forge: Forge) -> None:
    """A material alone is a source, too."""
    material = forge.material(ROUTER)
    source = FixedSource(material)
    end = source.subscribe(lambda _: pytest.fail("told of news"))
    assert source.current() is material
    assert source.current().not_after - forge.now < timedelta(hours=1, seconds=1)
    end()
