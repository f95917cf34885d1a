"""What of identities is told to others: roots, and where our own may be from."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from authority import Authority
from serving import FatalError, read
from tests.fakes import FakeClock, running, until
from tests.forge import Forge
from tests.tlsloader.agent import Agent, offered
from tests.workloadmanager.test_identities import Issuing
from workloadmanager.__main__ import _entrance
from workloadmanager._published import Published
from workloadmanager._settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

MANAGER = "spiffe://cluster.local/ns/agentcube-system/sa/workloadmanager"
ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"


async def test_publishes_each_bundle(clock: FakeClock, tmp_path: Path) -> None:
    """The file is there before a sandbox is, and follows the issuer."""
    issuer, file = Issuing(clock), tmp_path / "bundles" / "sandboxes.pem"
    published = Published(issuer, file, clock)
    await published.write()
    assert file.read_bytes() == issuer.bundle
    async with running(published.follow()), asyncio.timeout(5):
        file.unlink()
        issuer.tell(issuer.reserve())  # one identity; the roots are the same
        issuer.authority = Authority.create(
            "sandbox.cluster.local", now=clock.now() + timedelta(hours=1)
        )
        issuer.tell(None)
        await until(file.exists)
    assert file.read_bytes() == issuer.bundle


async def test_a_disk_that_is_full_is_tried_again(
    clock: FakeClock, tmp_path: Path
) -> None:
    """Routers read the new roots as soon as there is room for them."""
    issuer, file = Issuing(clock), tmp_path / "bundles" / "sandboxes.pem"
    (tmp_path / "bundles").touch()
    published = Published(issuer, file, clock)
    async with running(published.follow()), asyncio.timeout(5):
        issuer.tell(None)
        await clock.advance(0)
        (tmp_path / "bundles").unlink()
        await clock.advance(1)
        await until(file.exists)


@pytest.mark.parametrize("domain", ["cluster.local", "other.test"])
async def test_our_own_identity_is_of_the_services_trust_domain(
    tmp_path: Path, domain: str
) -> None:
    """Otherwise it could be one of those that we make."""
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
    await agent.say(offered(MANAGER, forge.svid(MANAGER), forge))
    async with agent.running():
        if domain == "cluster.local":
            door = await _entrance(settings)
            for job in door.jobs:
                job.close()
        else:
            with pytest.raises(FatalError, match="is not of --trust-domain other") as f:
                await _entrance(settings)
            assert f.value.hint == "say --trust-domain cluster.local"
