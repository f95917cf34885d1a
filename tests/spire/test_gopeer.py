"""Our TLS against go-spiffe and grpc-go, which share no code with it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.spire.doors import calling, serving
from tests.spire.followed import following
from tests.spire.programs import Program, started
from tests.spire.spire import BINARIES, as_group, need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.spire.spire import Spire

pytestmark = [pytest.mark.spire, pytest.mark.slow]

BASE = "spiffe://cluster.local/ns/agentcube-system/sa"
OURS, THEIRS, SOMEBODY = f"{BASE}/python", f"{BASE}/go", f"{BASE}/somebody"
GROUP = 4103


@asynccontextmanager
async def both(spire: Spire) -> AsyncIterator[Any]:
    """Be OURS while processes of GROUP are THEIRS."""
    need("gopeer")
    async with (
        spire.entry(THEIRS, group=GROUP),
        spire.entry(OURS),
        following(spire, OURS) as ours,
    ):
        yield ours.source


@asynccontextmanager
async def gopeer(spire: Spire, *argv: str) -> AsyncIterator[Program]:
    told = (argv[0], "-socket", spire.endpoint, *argv[1:])
    async with started(*as_group(GROUP, str(BINARIES / "gopeer"), *told)) as program:
        yield program


async def test_we_call_go(spire: Spire) -> None:
    """Our dialer proves a Go server and is proven by it."""
    async with (
        both(spire) as ours,
        gopeer(spire, "serve", "-allow", OURS) as server,
    ):
        address = (await server.tells("listening"))["address"]
        async with calling(ours, address, THEIRS) as line:
            await line.call()
        assert (await server.tells("judged"))["peer"] == OURS
        async with calling(ours, address, SOMEBODY) as line:
            text = await line.refusal()
        assert THEIRS in text
        assert SOMEBODY in text


async def test_go_refuses_us(spire: Spire) -> None:
    """A Go server that wants somebody else serves us nothing, and we say so."""
    async with (
        both(spire) as ours,
        gopeer(spire, "serve", "-allow", SOMEBODY) as server,
    ):
        address = (await server.tells("listening"))["address"]
        async with calling(ours, address, THEIRS) as line:
            await line.refusal()
        judged = await server.tells("judged")
        assert (judged["peer"], judged["admitted"]) == (OURS, False)


async def test_go_calls_us(spire: Spire) -> None:
    """Our acceptor proves a Go client and is proven by it."""
    async with (
        both(spire) as ours,
        serving(ours, THEIRS) as (door, address),
    ):
        known = ("dial", "-addr", address)
        async with gopeer(spire, *known, "-expect", OURS, "-n", "3") as client:
            for _ in range(3):
                assert (await client.tells("call"))["ok"]
            assert await client.status() == 0
        assert not door.refusals
        async with gopeer(spire, *known, "-expect", SOMEBODY) as client:
            told = await client.tells("call")
            assert not told["ok"]
            assert "unexpected ID" in told["error"]
            assert OURS in told["error"]


async def test_we_refuse_go(spire: Spire) -> None:
    """A Go client whom we do not admit is served nothing; our log knows why."""
    async with (
        both(spire) as ours,
        serving(ours, SOMEBODY) as (door, address),
        gopeer(spire, "dial", "-addr", address, "-expect", OURS) as client,
    ):
        assert not (await client.tells("call"))["ok"]
        assert await client.status() == 1
        assert door.refusals["not_admitted"]
