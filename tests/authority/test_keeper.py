from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from authority import Authority, AuthorityError, publish_bundle, write_identity
from authority._keeper import Holder, keep
from tests.fakes import FakeClock, running
from tlsloader import Material, Paths, SpiffeID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROUTER = SpiffeID.parse(
    "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
)
USER = SpiffeID.parse("spiffe://cluster.local/user/ann")
LIFE = timedelta(seconds=10)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def authority(clock: FakeClock) -> Authority:
    return Authority.create("cluster.local", now=clock.now())


def reader(folder: Path, authority: Authority, clock: FakeClock) -> Callable[[], str]:
    """Return a function that loads what is in *folder* and tells its leaf."""
    bundle = folder.parent / "bundle.pem"
    publish_bundle(bundle, authority.bundle)
    paths = Paths(folder / "key.pem", folder / "svid.pem", bundle)
    return lambda: Material.load(paths, now=clock.now()).leaf_sha256


async def test_renews_at_half_of_the_life(
    authority: Authority, clock: FakeClock, tmp_path: Path
) -> None:
    """Everybody has a new identity while the old one is good for as long again."""
    one, two = Holder(ROUTER, tmp_path / "router"), Holder(USER, tmp_path / "user")
    read = [reader(each.folder, authority, clock) for each in (one, two)]
    seen = []
    async with running(keep(authority, [one, two], life=LIFE, clock=clock)):
        for _ in range(3):
            await clock.advance(0)  # it sleeps: all is written
            seen.append([each() for each in read])
            await clock.advance(4)
            await clock.advance(0)
            assert [each() for each in read] == seen[-1]
            await clock.advance(1)
    assert len({leaf for leaves in seen for leaf in leaves}) == 6


async def test_says_when_all_have_one(
    authority: Authority, clock: FakeClock, tmp_path: Path
) -> None:
    """Ready means that every file exists, and is said once."""
    holders = [Holder(ROUTER, tmp_path / "router"), Holder(USER, tmp_path / "user")]
    said: list[list[bool]] = []

    def ready() -> None:
        said.append([(each.folder / "key.pem").exists() for each in holders])

    async with running(keep(authority, holders, life=LIFE, ready=ready, clock=clock)):
        for _ in range(3):
            await clock.advance(5)
        await clock.advance(0)
    assert said == [[True, True]]


async def test_renews_after_the_clock_jumped_ahead(
    authority: Authority, clock: FakeClock, tmp_path: Path
) -> None:
    """A machine that slept renews within seconds, not after half a life more."""
    holder = Holder(ROUTER, tmp_path / "router")
    read = reader(holder.folder, authority, clock)
    job = keep(authority, [holder], life=timedelta(hours=1), clock=clock)
    async with running(job):
        await clock.advance(0)
        before = read()
        clock.jump(1800)
        await clock.advance(15)
        await clock.advance(0)
        assert read() != before


async def test_renews_after_the_clock_went_back(
    authority: Authority, clock: FakeClock, tmp_path: Path
) -> None:
    """An identity that is suddenly not valid yet is replaced within seconds."""
    holder = Holder(ROUTER, tmp_path / "router")
    read = reader(holder.folder, authority, clock)
    job = keep(authority, [holder], life=timedelta(hours=1), clock=clock)
    async with running(job):
        await clock.advance(0)
        before = read()
        clock.set_wall(-20)  # the authority's root is older
        await clock.advance(15)
        await clock.advance(0)
        assert read() != before


async def test_a_failed_renewal_is_tried_again(
    authority: Authority,
    clock: FakeClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the disk refuses now it may take soon; the old identity stays till then."""
    holder = Holder(ROUTER, tmp_path / "router")
    read = reader(holder.folder, authority, clock)
    async with running(keep(authority, [holder], life=LIFE, clock=clock)):
        await clock.advance(0)
        before = read()
        blocker = holder.folder / ".key.pem.new"
        blocker.mkdir()  # a folder where the new file should be
        await clock.advance(5)
        await clock.advance(0)
        assert read() == before
        assert "identities not renewed" in caplog.messages
        blocker.rmdir()
        await clock.advance(1)
        await clock.advance(0)
        assert read() != before


async def test_the_first_identities_have_to_be_written(
    authority: Authority, clock: FakeClock, tmp_path: Path
) -> None:
    """A service that could never get its identity is not waited for in silence."""
    (tmp_path / "file").touch()
    holder = Holder(ROUTER, tmp_path / "file" / "router")
    with pytest.raises(OSError, match="file"):
        await keep(authority, [holder], life=LIFE, clock=clock)
    stranger = Holder(SpiffeID.parse("spiffe://evil.test/x"), tmp_path / "x")
    with pytest.raises(AuthorityError):
        await keep(authority, [stranger], life=LIFE, clock=clock)


def test_writes_a_key_for_its_user_only(
    authority: Authority, clock: FakeClock, tmp_path: Path
) -> None:
    """Folder 0700, key 0600, nothing left beside; what a crash left is no hindrance."""
    folder = tmp_path / "router"
    folder.mkdir()
    (folder / ".key.pem.new").write_bytes(b"left over")
    write_identity(folder, authority.issue(ROUTER, life=LIFE, now=clock.now()))
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["key.pem", "svid.pem"]


def test_a_reader_never_sees_half_a_bundle(
    authority: Authority, tmp_path: Path
) -> None:
    """A new bundle comes by a rename: who has the old one open reads it whole."""
    path = tmp_path / "bundles" / "cluster.local.pem"
    publish_bundle(path, b"the old one")
    with path.open("rb") as old:
        publish_bundle(path, authority.bundle)
        assert old.read() == b"the old one"
    assert path.read_bytes() == authority.bundle
    assert [each.name for each in path.parent.iterdir()] == [path.name]
