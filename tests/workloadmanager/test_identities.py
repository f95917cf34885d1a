from __future__ import annotations

import asyncio
import shutil
import threading
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from authority import Authority, Issued
from tests.fakes import FakeClock, running
from tests.workloadmanager.engine import until
from tlsloader import Material
from workloadmanager import _ids
from workloadmanager._identities import Identities

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR = timedelta(hours=1)


class Slow(Authority):
    """Issues when it is let."""

    allowed: threading.Event
    fault: Exception | None = None
    issued = 0

    def issue(self, *args: Any, **options: Any) -> Issued:
        self.allowed.wait(10)
        if self.fault is not None:
            raise self.fault
        self.issued += 1
        return super().issue(*args, **options)


@pytest.fixture
def authority(clock: FakeClock) -> Slow:
    authority = Slow.create("sandbox.cluster.local", now=clock.now())
    authority.allowed = threading.Event()
    authority.allowed.set()
    return authority


@pytest.fixture
def identities(authority: Slow, clock: FakeClock) -> Identities:
    return Identities(authority, namespace="agentcube-system", life=HOUR, clock=clock)


def leaf(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "svid.pem").read_bytes())


def moved(folder: Path, before: x509.Certificate) -> Callable[[], bool]:
    return lambda: leaf(folder) != before


async def test_a_sandbox_gets_an_identity_of_its_own(
    identities: Identities, authority: Slow, clock: FakeClock, tmp_path: Path
) -> None:
    """Named by its id, loadable by its PicoD, its key for nobody else."""
    sandbox_id = _ids.sandbox_id()
    await identities.issue(sandbox_id, tmp_path)
    material = Material.parse(
        key=(tmp_path / "key.pem").read_bytes(),
        chain=(tmp_path / "svid.pem").read_bytes(),
        bundle=authority.bundle,
        foreign={},
        now=clock.now(),
    )
    name = f"spiffe://sandbox.cluster.local/ns/agentcube-system/sandbox/{sandbox_id}"
    assert str(material.identity) == name == str(identities.name(sandbox_id))
    assert material.not_after == clock.now() + HOUR
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


async def test_it_is_renewed_at_half_of_its_life(
    identities: Identities, clock: FakeClock, tmp_path: Path
) -> None:
    """Again and again, until the sandbox is gone."""
    await identities.issue("sbx-a", tmp_path)
    async with running(identities.renew()):
        for _ in range(3):
            before = leaf(tmp_path)
            await clock.advance(HOUR.total_seconds() / 2 - 1)
            await clock.advance(0)
            assert leaf(tmp_path) == before
            await clock.advance(1)
            await until(moved(tmp_path, before))
            await until(lambda: len(identities._timers) == 1)
        await identities.drop("sbx-a")
        assert len(identities._timers) == 0


async def test_a_failed_renewal_is_tried_again_soon(
    identities: Identities,
    authority: Slow,
    clock: FakeClock,
    tmp_path: Path,
) -> None:
    """A full disk for a moment must not cost a sandbox its identity."""
    await identities.issue("sbx-a", tmp_path)
    before = leaf(tmp_path)
    authority.fault = OSError("disk full")
    async with running(identities.renew()):
        await clock.advance(HOUR.total_seconds() / 2)
        await until(lambda: len(identities._timers) == 1)
        assert leaf(tmp_path) == before
        authority.fault = None
        await clock.advance(5)
        await until(moved(tmp_path, before))


async def test_adopted_sandboxes_are_renewed_at_once(
    identities: Identities, clock: FakeClock, tmp_path: Path
) -> None:
    """Nobody knows how old the identity is that an earlier process issued."""
    identities.resume("sbx-a", tmp_path)
    async with running(identities.renew()):
        await until((tmp_path / "svid.pem").exists)
    assert clock.now() < leaf(tmp_path).not_valid_after_utc


async def test_nothing_is_written_once_a_sandbox_is_dropped(
    identities: Identities, authority: Slow, tmp_path: Path
) -> None:
    """A key that appears in a folder just removed would stay there for ever."""
    authority.allowed.clear()
    folder = tmp_path / "sandbox"
    folder.mkdir()
    async with asyncio.TaskGroup() as tasks:
        issuing = tasks.create_task(identities.issue("sbx-a", folder))
        await until(lambda: identities._writing)
        issuing.cancel()
        with suppress(asyncio.CancelledError):
            await issuing
        dropping = tasks.create_task(identities.drop("sbx-a"))
        done, _ = await asyncio.wait([dropping], timeout=0)
        assert not done
        authority.allowed.set()
        await dropping
        shutil.rmtree(folder)
    assert identities._writing == {}
    assert not folder.exists()
    assert len(identities._timers) == 0


async def test_the_bundle_is_published(
    identities: Identities, authority: Slow, tmp_path: Path
) -> None:
    """Routers read it to know sandboxes by."""
    await identities.publish(tmp_path / "bundles" / "b.pem")
    assert (tmp_path / "bundles" / "b.pem").read_bytes() == authority.bundle
