"""When the Router says that it wants calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router._readiness import follow_identity, follow_sessions
from serving import Health
from tests.fakes import FakeClock, running, until
from tests.forge import Forge
from tests.router.mesh import mesh
from tests.router.process import ROUTER
from tests.tlsloader.transport import RotatingSource

if TYPE_CHECKING:
    from pathlib import Path


async def test_ready_once_the_sessions_are_known(tmp_path: Path) -> None:
    """The first whole snapshot is what readiness waits for."""
    health = Health()
    health.start()
    async with mesh(tmp_path) as net:
        begun = net.house.watch.begun
        begun.clear()
        async with running(follow_sessions(health, net.house.watch)):
            await until(lambda: not health.ready)
            begun.set()
            await until(lambda: health.ready)


async def test_not_ready_without_a_valid_identity() -> None:
    """Expired, nobody can be sure of us; renewed, we are back."""
    health, clock = Health(), FakeClock()
    health.start()
    source = RotatingSource(Forge(now=clock.now()).material(ROUTER))
    async with running(follow_identity(health, source, clock)):
        await clock.advance(1)
        assert health.ready
        await clock.advance(7200)
        await until(lambda: not health.ready)
        source.publish(Forge(now=clock.now()).material(ROUTER))
        await clock.advance(1)
        await until(lambda: health.ready)
