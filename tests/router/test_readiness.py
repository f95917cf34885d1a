"""When the Router says that it wants calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router._readiness import follow_sessions
from serving import Health
from tests.fakes import running, until
from tests.router.mesh import mesh

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
