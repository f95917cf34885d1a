"""The Workload API of the real SPIRE: what its agent says, and when it says nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.fakes import until
from tests.forge import Forge
from tests.spire.followed import following

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tests.spire.followed import Followed
    from tests.spire.spire import Spire
    from tlsloader import Material

pytestmark = [pytest.mark.spire, pytest.mark.slow]

BASE = "spiffe://cluster.local/ns/agentcube-system/sa"


def roots(material: Material) -> int:
    return len(material.bundles["cluster.local"].certificates)


async def test_rotates(spire: Spire) -> None:
    """A life of 20 seconds is renewed before it ends, and nothing is refused."""
    identity = f"{BASE}/rotating"
    async with (
        spire.entry(identity, "-dns", "router.test"),
        following(spire, identity) as followed,
    ):
        first = followed.source.current()
        assert str(first.identity) == identity
        second = await followed.next()
        assert (second.generation, second.identity) == (2, first.identity)
        assert first.leaf_sha256 != second.leaf_sha256
        assert first.not_after < second.not_after
        assert (followed.source.failures, followed.source.usable) == (0, True)


async def test_rolls_the_authority_over(own_spire: Spire) -> None:
    """Prepare, activate, taint and revoke: each step is a generation that is good."""
    identity = f"{BASE}/rolling"
    async with (
        own_spire.entry(identity, ttl=600),
        following(own_spire, identity) as followed,
    ):
        before = followed.source.current()
        old = (await own_spire.ask("localauthority", "x509", "show"))["active"]
        new = await own_spire.authority("prepare")
        prepared = await followed.next(lambda each: roots(each) == roots(before) + 1)
        assert prepared.leaf_sha256 == before.leaf_sha256
        await own_spire.authority("activate", new)
        await own_spire.authority("taint", old["authority_id"])
        tainted = await followed.next(
            lambda each: each.leaf_sha256 != prepared.leaf_sha256
        )
        assert roots(tainted) == roots(prepared)
        await own_spire.authority("revoke", old["authority_id"])
        revoked = await followed.next(lambda each: roots(each) == roots(before))
        assert revoked.bundles != before.bundles
        # a busy agent may not know us for a moment
        assert set(followed.source.refusals) <= {"withdrawn"}


async def test_outlives_its_entry_until_it_expires(spire: Spire) -> None:
    """A deleted entry is told; what it gave is used to its end, and not longer."""
    identity = f"{BASE}/deleted"
    number = await spire.create(identity, group=0, ttl=5)
    async with following(spire, identity) as followed:
        source = followed.source
        await spire.delete(number)
        await followed.refuses("withdrawn")
        assert source.usable
        async with asyncio.timeout(20):
            await until(lambda: not source.usable)
        expired = source.current()
        async with spire.entry(identity):
            fresh = await followed.next(lambda each: each.not_after > expired.not_after)
            assert source.usable
            assert fresh.identity == expired.identity


async def test_outlives_the_agent(spire: Spire) -> None:
    """Killed, the agent is missed at once; it is heard a second after its return."""
    identity = f"{BASE}/orphan"
    async with spire.entry(identity), following(spire, identity) as followed:
        known = followed.source.current()
        spire.kill_agent()
        await followed.refuses("agent_unavailable")
        assert followed.source.current() is known
        # Away until our life is half over: the agent renews it at its start
        loop = asyncio.get_running_loop()
        half = known.not_before + (known.not_after - known.not_before) / 2
        await reached(followed, half)
        await asyncio.to_thread(spire.start_agent)
        start = loop.time()
        fresh = await followed.next()
        assert loop.time() - start < 1
        assert fresh.not_after > known.not_after


async def test_outlives_a_frozen_agent(spire: Spire) -> None:
    """It takes calls and says nothing: missed in words, our last good one used up."""
    identity = f"{BASE}/frozen"
    async with spire.entry(identity, ttl=5), following(spire, identity) as followed:
        source = followed.source
        await followed.next()  # the conversation has begun
        with spire.frozen("spire-agent"):
            known = source.current()
            await followed.refuses("agent_silent", within=20)
            await over(followed, known)
            assert set(source.refusals) == {"agent_silent"}
        fresh = await followed.next(lambda each: each.not_after > known.not_after, 10)
        assert source.usable
        assert fresh.identity == known.identity


async def test_outlives_the_server(spire: Spire) -> None:
    """Rotations that do not come are no harm before the last good one expires."""
    identity = f"{BASE}/unrenewed"
    async with spire.entry(identity, ttl=5), following(spire, identity) as followed:
        source = followed.source
        await followed.next()
        spire.kill_server()
        known = source.current()
        for number in (1, 2):  # two lives of a TTL: each would have been renewed
            await reached(followed, known.not_before + number * timedelta(seconds=5))
            assert source.usable
        known = source.current()
        await over(followed, known)
        await asyncio.to_thread(spire.start_server)
        fresh = await followed.next(lambda each: each.not_after > known.not_after)
        assert source.usable
        assert fresh.identity == known.identity


async def reached(followed: Followed, moment: datetime) -> None:
    async with asyncio.timeout(30):
        await until(lambda: followed.source._clock.now() > moment)


async def over(followed: Followed, known: Material) -> None:
    """See that *known* is all there is, and used to its end, but not longer."""
    await reached(followed, known.not_after)
    assert followed.source.current() is known
    assert not followed.source.usable


async def test_learns_and_forgets_other_trust_domains(
    spire: Spire, tmp_path: Path
) -> None:
    """A federated bundle comes and goes at run time, apart from our own."""
    identity, other = f"{BASE}/federated", Forge("other.test")
    file = tmp_path / "other.pem"
    file.write_bytes(other.bundle)
    domain = ("-id", "spiffe://other.test")
    await spire.ask("bundle", "set", *domain, "-path", str(file))
    async with (
        spire.entry(identity, "-federatesWith", "spiffe://other.test", ttl=600),
        following(spire, identity) as followed,
    ):
        before = followed.source.current()
        assert before.bundles["other.test"] == other.trust
        assert roots(before) == len(before.bundles["cluster.local"].certificates)
        await spire.ask("bundle", "delete", *domain, "-mode", "dissociate")
        after = await followed.next(lambda each: "other.test" not in each.bundles)
        assert after.bundles["cluster.local"] == before.bundles["cluster.local"]
        # a busy agent may not know us for a moment
        assert set(followed.source.refusals) <= {"withdrawn"}
