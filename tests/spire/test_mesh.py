"""Two processes, two identities from one SPIRE, and our TLS between them."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.spire.doors import calling
from tests.spire.followed import following
from tests.spire.programs import Program, started
from tests.spire.spire import as_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.spire.followed import Followed
    from tests.spire.spire import Spire

pytestmark = [pytest.mark.spire, pytest.mark.slow]

BASE = "spiffe://cluster.local/ns/agentcube-system/sa"
CLIENT, SERVER = f"{BASE}/mesh-client", f"{BASE}/mesh-server"
GROUP = 4101


@asynccontextmanager
async def node(spire: Spire, allowed: str) -> AsyncIterator[tuple[Program, Any]]:
    """Run a server that admits *allowed*, as SERVER."""
    argv = (sys.executable, "-m", "tests.spire.node", spire.endpoint, allowed)
    async with started(*as_group(GROUP, *argv)) as program:
        told = await program.tells("listening")
        assert told["identity"] == SERVER
        yield program, told["address"]


async def test_serves_through_rotations(spire: Spire) -> None:
    """Calls go on while both sides get new certificates; none fails."""
    async with (
        spire.entry(SERVER, group=GROUP),
        spire.entry(CLIENT),
        node(spire, CLIENT) as (program, address),
        following(spire, CLIENT) as client,
        calling(client.source, address, SERVER) as line,
        asyncio.timeout(60),
    ):
        both = asyncio.gather(program.tells("rotated"), client.next())
        served = 0
        while not both.done():
            await asyncio.gather(*(line.call() for _ in range(4)))
            served += 4
        await line.call()
        (told, fresh) = await both
        assert (told["generation"], fresh.generation) == (2, 2)
        assert served > 100


async def test_serves_through_a_roll_over(own_spire: Spire) -> None:
    """A new authority: prepared, active, the old one tainted, revoked; no call fails.

    Each step waits until both sides have taken the one before, as operators do.
    """
    async with (
        own_spire.entry(SERVER, group=GROUP, ttl=600),
        own_spire.entry(CLIENT, ttl=600),
        node(own_spire, CLIENT) as (program, address),
        following(own_spire, CLIENT) as client,
        calling(client.source, address, SERVER) as line,
        asyncio.timeout(90),
    ):
        rolling = asyncio.ensure_future(roll_over(own_spire, program, client))
        served = 0
        while not rolling.done():
            await asyncio.gather(*(line.call() for _ in range(4)))
            served += 4
        await rolling
        await line.call()
        assert served > 20


async def roll_over(spire: Spire, server: Program, client: Followed) -> None:
    """Let both ends of a line change to a new authority and forget the old one."""
    first = client.source.current()
    old = (await spire.ask("localauthority", "x509", "show"))["active"]["authority_id"]
    new = await spire.authority("prepare")
    await asyncio.gather(server.tells("rotated"), client.next())
    await spire.authority("activate", new)
    await spire.authority("taint", old)
    await asyncio.gather(
        server.tells("rotated"),
        client.next(lambda each: each.leaf_sha256 != first.leaf_sha256),
    )
    both = client.source.current().bundles
    await spire.authority("revoke", old)
    await asyncio.gather(
        server.tells("rotated"), client.next(lambda each: each.bundles != both)
    )


async def test_refuses_whoever_is_not_expected(spire: Spire) -> None:
    """The dialer names whom it met, the door admits no other of the domain."""
    async with (
        spire.entry(SERVER, group=GROUP),
        spire.entry(CLIENT),
        following(spire, CLIENT) as client,
    ):
        async with (
            node(spire, CLIENT) as (_, address),
            calling(client.source, address, f"{BASE}/somebody") as line,
        ):
            text = await line.refusal()
            assert SERVER in text
            assert f"{BASE}/somebody" in text
        async with (
            node(spire, f"{BASE}/somebody") as (_, address),
            calling(client.source, address, SERVER) as line,
        ):
            await line.refusal()
