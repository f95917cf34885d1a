"""When a service says that it wants calls."""

from __future__ import annotations

from serving import Health, follow_identity
from tests.fakes import FakeClock, running, until
from tests.forge import Forge
from tests.tlsloader.transport import RotatingSource

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"


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


async def test_not_ready_before_its_time() -> None:
    """A clock that was set back makes everybody's certificates tomorrow's."""
    health, clock = Health(), FakeClock()
    health.start()
    source = RotatingSource(Forge(now=clock.now()).material(ROUTER, age=60))
    async with running(follow_identity(health, source, clock)):
        clock.set_wall(-3600)
        await clock.advance(1)
        await until(lambda: not health.ready)
        clock.set_wall(3600)
        await clock.advance(1)
        await until(lambda: health.ready)
