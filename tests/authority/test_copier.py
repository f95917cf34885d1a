"""What an agent gives, as files: whole, in the right order, and followed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from authority._copier import Copier
from tests.authority.test_process import process, ready
from tests.fakes import FakeClock, running, until
from tests.forge import Forge
from tests.tlsloader.agent import Agent, offered
from tests.tlsloader.transport import RotatingSource
from tlsloader import Material, Paths

if TYPE_CHECKING:
    from pathlib import Path

    from tests.forge import Svid

ANN = "spiffe://cluster.local/user/ann"


def paths(state: Path) -> Paths:
    folder = state / "identities" / "user"
    bundle = state / "bundles" / "cluster.local.pem"
    return Paths(folder / "key.pem", folder / "svid.pem", bundle)


def copier(source: RotatingSource, state: Path, clock: FakeClock) -> Copier:
    return Copier(source, paths(state).key.parent, state / "bundles", clock)


async def test_writes_each_generation(tmp_path: Path) -> None:
    """The files are the source's identity, at once and after each change of it."""
    clock = FakeClock()
    old, new = (Forge("cluster.local", clock.now()) for _ in range(2))
    source = RotatingSource(old.material(ANN, foreign=[Forge("other.test")]))
    kept = copier(source, tmp_path, clock)
    await kept.write()
    assert Material.load(paths(tmp_path), now=clock.now()).chain == (
        source.current().chain
    )
    assert not (tmp_path / "bundles" / "other.test.pem").exists()
    async with running(kept.keep()), asyncio.timeout(10):
        source.publish(new.material(ANN))
        await until(
            lambda: paths(tmp_path).chain.read_bytes() == source.current().chain
        )
    assert paths(tmp_path).bundle.read_bytes() == new.bundle
    assert paths(tmp_path).key.stat().st_mode & 0o777 == 0o600


async def test_a_disk_that_is_full_is_tried_again(tmp_path: Path) -> None:
    """What could not be written once is written as soon as it can be."""
    clock = FakeClock()
    source = RotatingSource(Forge("cluster.local", clock.now()).material(ANN))
    (tmp_path / "bundles").touch()
    kept = copier(source, tmp_path, clock)
    with pytest.raises(OSError, match="bundles"):
        await kept.write()
    async with running(kept.keep()), asyncio.timeout(10):
        source.publish(source.current())
        await clock.advance(0)
        (tmp_path / "bundles").unlink()
        await clock.advance(1)
        await until(paths(tmp_path).chain.exists)


@pytest.mark.slow
async def test_the_process_follows_an_agent(tmp_path: Path) -> None:
    """It makes no CA, and writes what the user is given, now and later."""
    forge, agent = Forge(), Agent(tmp_path / "agent.sock")
    state = tmp_path / "state"

    async def shown(svid: Svid) -> None:
        await agent.say(offered(ANN, svid, forge))

    first, second = forge.svid(ANN), forge.svid(ANN)
    await shown(first)
    flags = ("--spiffe-endpoint-socket", agent.endpoint)
    async with agent.running(), process(state, *flags) as writing:
        await ready(writing)
        assert paths(state).chain.read_bytes() == first.chain
        await shown(second)
        await until(lambda: paths(state).chain.read_bytes() == second.chain)
        writing.terminate()
        assert await writing.wait() == 0
    assert sorted(each.name for each in state.iterdir()) == ["bundles", "identities"]


@pytest.mark.slow
async def test_somebody_elses_identity_is_not_taken(tmp_path: Path) -> None:
    """The user is one, whoever the agent thinks the process is."""
    forge, agent = Forge(), Agent(tmp_path / "agent.sock")
    bob = "spiffe://cluster.local/user/bob"
    await agent.say(offered(bob, forge.svid(bob), forge))
    flags = ("--spiffe-endpoint-socket", agent.endpoint)
    async with agent.running(), process(tmp_path / "state", *flags) as writing:
        assert writing.stderr is not None
        async for line in writing.stderr:
            if b"identity_not_offered" in line:
                break
        assert bob.encode() in line
    assert not (tmp_path / "state").exists()
