"""What sandboxes are told of our own trust domain when an agent tells us."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from serving import FatalError, read
from tests.fakes import running, until
from tests.forge import Forge
from tests.tlsloader.agent import Agent, offered
from tests.tlsloader.transport import RotatingSource
from workloadmanager.__main__ import _entrance
from workloadmanager._roots import Roots
from workloadmanager._settings import Settings
from workloadmanager._state import StateFolder

if TYPE_CHECKING:
    from pathlib import Path

MANAGER = "spiffe://cluster.local/ns/agentcube-system/sa/workloadmanager"
ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"


async def test_publishes_each_bundle(tmp_path: Path) -> None:
    """The file is there before a sandbox is, and follows the roll-over of a CA."""
    old, new = Forge(), Forge()
    source = RotatingSource(old.material(MANAGER))
    file = tmp_path / "bundles" / "cluster.local.pem"
    roots = Roots(source, file)
    await roots.publish()
    assert file.read_bytes() == old.trust.pem
    async with running(roots.follow()), asyncio.timeout(5):
        await until(lambda: source.callbacks)
        source.publish(new.material(MANAGER))
        await until(lambda: file.read_bytes() == new.trust.pem)
    assert not source.callbacks


@pytest.mark.parametrize("domain", ["cluster.local", "other.test"])
async def test_the_agent_must_be_of_the_services_trust_domain(
    tmp_path: Path, domain: str
) -> None:
    """Otherwise sandboxes would be given the roots of the wrong one."""
    forge, agent = Forge(), Agent(tmp_path / "agent.sock")
    told = {
        "--listen": f"unix:{tmp_path}/wm.sock",
        "--state": str(tmp_path / "state"),
        "--runtime": "/run/cm",
        "--router-id": ROUTER,
        "--trust-domain": domain,
        "--spiffe-endpoint-socket": agent.endpoint,
    }
    argv = [word for pair in told.items() for word in pair]
    settings = read(Settings, argv, {}, "workloadmanager")
    state = StateFolder.open(settings.state)
    await agent.say(offered(MANAGER, forge.svid(MANAGER), forge))
    async with agent.running():
        if domain == "cluster.local":
            door = await _entrance(settings, state)
            assert state.bundle(domain).read_bytes() == forge.trust.pem
            assert len(door.jobs) == 2
            for job in door.jobs:
                job.close()
        else:
            with pytest.raises(FatalError, match="is not of --trust-domain other") as f:
                await _entrance(settings, state)
            assert f.value.hint == "say --trust-domain cluster.local"
    state.close()
