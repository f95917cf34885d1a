"""JWT-SVIDs and the keys that judge them, as an agent gives and takes them."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from spiffe._proto import workload_pb2

from clock import SYSTEM
from tests.fakes import running, until
from tests.minter import Minter
from tests.tlsloader.agent import Agent
from tests.tlsloader.test_workload import LateClock
from tlsloader import JWTBundle, MaterialError, SpiffeID
from tlsloader.jwt_bundles import JWTBundleSource
from tlsloader.jwt_svids import JWTSVIDSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ME = "spiffe://cluster.local/ns/agentcube-system/sa/me"
THEM = "spiffe://cluster.local/ns/agentcube-system/sa/them"
TD = "spiffe://cluster.local"
OURS = Minter("cluster.local", SYSTEM.now())
OTHERS = Minter("other.test", SYSTEM.now())


@pytest.fixture(autouse=True)
def _minting_now() -> None:
    """Have tokens begin now: it may be long since this module was read."""
    for minter in (OURS, OTHERS):
        minter.now = int(SYSTEM.now().timestamp())


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    """Listen at a socket; nobody has an identity yet."""
    agent = Agent(tmp_path / "agent.sock")
    async with agent.running():
        yield agent


@asynccontextmanager
async def following(agent: Agent, **options: Any) -> AsyncIterator[JWTBundleSource]:
    source = await JWTBundleSource.load(agent.endpoint, wait=10, **options)
    async with running(source.follow()):
        yield source


async def soon(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        await until(condition)


class TestBundles:
    """The keys of each trust domain; every answer is the full state."""

    async def test_are_what_the_agent_says(self, agent: Agent) -> None:
        """Each trust domain has its own, and they come and go."""
        await agent.publish({TD: OURS.jwks(), "spiffe://other.test": OTHERS.jwks()})
        both = {"cluster.local": OURS.bundle, "other.test": OTHERS.bundle}
        async with following(agent) as source:
            assert source.current() == both
            await agent.publish({TD: OURS.jwks()})
            await soon(lambda: source.current() == {"cluster.local": OURS.bundle})
            fresh = Minter("cluster.local", SYSTEM.now(), kid="key-2")
            await agent.publish({TD: fresh.jwks()})
            await soon(lambda: source.current() == {"cluster.local": fresh.bundle})
            assert not source.refusals

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            ({}, "bad_answer"),
            ({TD: b"junk"}, "bad_document"),
            ({"cluster.local": OURS.jwks()}, "bad_federated_domain"),
            ({ME: OURS.jwks()}, "bad_federated_domain"),
        ],
    )
    async def test_have_to_be_there_at_the_start(
        self, agent: Agent, said: dict[str, bytes], reason: str
    ) -> None:
        """Who cannot judge anybody does not start, and says why."""
        await agent.publish(said)
        with pytest.raises(MaterialError) as caught:
            await JWTBundleSource.load(agent.endpoint, wait=0.2)
        assert caught.value.reason == reason

    async def test_are_judged_each_for_itself(self, agent: Agent) -> None:
        """A bad one is told once and the one before stays; others are taken."""
        await agent.publish({TD: OURS.jwks(), "spiffe://other.test": OTHERS.jwks()})
        async with following(agent) as source:
            fresh = Minter("cluster.local", SYSTEM.now(), kid="key-2")
            said = {TD: fresh.jwks(), "spiffe://other.test": b"{}", "x": b""}
            await agent.publish(said)
            expected = {"cluster.local": fresh.bundle, "other.test": OTHERS.bundle}
            await soon(lambda: source.current() == expected)
            await agent.publish({**said, "spiffe://new.test": b""})
            await soon(lambda: source.refusals["bad_document"] == 2)
            assert source.refusals["bad_federated_domain"] == 1
            await agent.babble(b"\xff")
            await soon(lambda: source.refusals["bad_answer"])
            assert source.current() == expected

    async def test_are_gone_at_once_when_withdrawn(
        self, agent: Agent, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Keys do not say when they end: who may not have them judges nobody."""
        await agent.publish({TD: OURS.jwks()})
        async with following(agent) as source:
            await agent.end(grpc.StatusCode.PERMISSION_DENIED)
            await soon(lambda: not source.current())
            assert dict(source.refusals) == {"withdrawn": 1}
            assert "JWT bundles dropped" in caplog.messages
            source._look()
            assert not source.current(), "what was said before does not come back"
            await agent.publish({TD: OURS.jwks()})
            await soon(lambda: source.current() == {"cluster.local": OURS.bundle})

    async def test_outlive_their_agent_for_a_while(self, tmp_path: Path) -> None:
        """An agent that is away is believed, but not for ever."""
        agent, clock = Agent(tmp_path / "agent.sock"), LateMonotonic()
        await agent.publish({TD: OURS.jwks()})
        async with agent.running():
            source = await JWTBundleSource.load(
                agent.endpoint, clock=clock, max_age=100
            )
        async with running(source.follow()):
            await soon(lambda: source.refusals["agent_unavailable"])
            assert source.current() == {"cluster.local": OURS.bundle}
            clock.ahead = 101
            assert source.current() == {}
            async with agent.running():
                await soon(lambda: source.current() == {"cluster.local": OURS.bundle})

    async def test_wait_for_an_agent_that_is_not_there(self, tmp_path: Path) -> None:
        """Services and agents start in any order."""
        agent = Agent(tmp_path / "agent.sock")
        await agent.publish({TD: OURS.jwks()})
        async with asyncio.TaskGroup() as group:
            loading = group.create_task(JWTBundleSource.load(agent.endpoint))
            async with agent.running():
                source = await loading
        assert source.current() == {"cluster.local": OURS.bundle}


class LateMonotonic:
    """The system's time, and seconds on top for measuring."""

    ahead = 0.0
    now = SYSTEM.now
    sleep = SYSTEM.sleep

    def monotonic(self) -> float:
        return SYSTEM.monotonic() + self.ahead


def minting(identity: str = ME, **claims: Any) -> Callable[[Any], Any]:
    """Return what gives each audience a token of *identity*."""

    def mint(request: Any) -> Any:
        whole = {**OURS.claims(identity, ""), "aud": list(request.audience), **claims}
        payload = json.dumps({k: v for k, v in whole.items() if v is not None})
        token = OURS.signed(OURS.header(), payload.encode())
        name = request.spiffe_id or identity
        svid = workload_pb2.JWTSVID(spiffe_id=name, svid=token)
        return workload_pb2.JWTSVIDResponse(svids=[svid])

    return mint


class TestTokens:
    """Our own, one for each audience."""

    async def test_are_fetched_for_an_audience(self, agent: Agent) -> None:
        """A token says who we are, whom it is for and until when; it stays secret."""
        await agent.publish({})
        agent.mint = minting()
        svid = await JWTSVIDSource(agent.endpoint).fetch(THEM)
        assert (str(svid.identity), svid.audience) == (ME, (THEM,))
        assert svid.expires.timestamp() == OURS.now + 300
        assert svid.token.count(".") == 2
        assert svid.token not in repr(svid)

    async def test_are_used_until_half_of_their_life_is_over(
        self, agent: Agent
    ) -> None:
        """Callers at the same time share one question; audiences share no token."""
        await agent.publish({})
        agent.mint, clock = minting(), LateClock()
        source = JWTSVIDSource(agent.endpoint, clock=clock)
        first, again = await asyncio.gather(source.fetch(THEM), source.fetch(THEM))
        assert (agent.minted, first is again) == (1, True)
        assert await source.fetch("else") is not first
        assert await source.fetch("a", "b") is await source.fetch("b", "a")
        assert agent.minted == 3
        left = first.expires - clock.now()
        clock.ahead = left / 2 - timedelta(seconds=5)
        assert await source.fetch(THEM) is first
        clock.ahead = left / 2 + timedelta(seconds=5)
        assert await source.fetch(THEM) is not first
        assert agent.minted == 4

    async def test_that_are_here_are_not_waited_for(self, agent: Agent) -> None:
        """An agent that hangs over one audience holds up no other."""
        await agent.publish({})
        agent.mint = minting()
        source = JWTSVIDSource(agent.endpoint)
        first = await source.fetch(THEM)
        agent.may_mint.clear()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(source.fetch("else"))
            await soon(lambda: agent.minted == 2)
            async with asyncio.timeout(2):
                assert await source.fetch(THEM) is first
            assert not waiting.done()
            agent.may_mint.set()

    async def test_do_not_fill_the_memory(self, agent: Agent) -> None:
        """Of many audiences the oldest tokens are forgotten."""
        await agent.publish({})
        agent.mint = minting()
        source = JWTSVIDSource(agent.endpoint)
        for number in range(258):
            await source.fetch(f"audience-{number}")
        assert len(source._kept) == 256

    async def test_are_of_whom_we_want_to_be(self, agent: Agent) -> None:
        """With several entries for one process the ID is asked for."""
        await agent.publish({})
        agent.mint = minting(THEM)
        them = SpiffeID.parse(THEM)
        source = JWTSVIDSource(agent.endpoint, spiffe_id=them)
        assert (await source.fetch("x")).identity == them

    @pytest.mark.parametrize(
        ("claims", "reason"),
        [
            ({"sub": THEM}, "other_identity"),
            ({"sub": None}, "bad_token"),
            ({"sub": 1}, "bad_token"),
            ({"aud": ["somebody"]}, "other_audience"),
            ({"aud": None}, "bad_token"),
            ({"aud": [1]}, "bad_token"),
            ({"exp": None}, "bad_token"),
            ({"exp": 10**30}, "bad_token"),
            ({"exp": OURS.now - 1}, "expired"),
        ],
        ids=str,
    )
    async def test_are_what_was_asked_for(
        self, agent: Agent, claims: dict[str, Any], reason: str
    ) -> None:
        """Another token than we wanted is never handed out, nor shown in an error."""
        await agent.publish({})
        agent.mint = minting(**claims)
        with pytest.raises(MaterialError) as caught:
            await JWTSVIDSource(agent.endpoint, spiffe_id=SpiffeID.parse(ME)).fetch(
                "audience"
            )
        assert caught.value.reason == reason
        assert "ey" not in str(caught.value)

    @pytest.mark.parametrize("token", ["", "a.b", "a.b.c.d", "a.!.c", "a.e30=.c"])
    async def test_are_tokens(self, agent: Agent, token: str) -> None:
        """The compact form, or an error."""
        await agent.publish({})
        svid = workload_pb2.JWTSVID(spiffe_id=ME, svid=token)
        agent.mint = lambda _: workload_pb2.JWTSVIDResponse(svids=[svid])
        with pytest.raises(MaterialError) as caught:
            await JWTSVIDSource(agent.endpoint).fetch("audience")
        assert caught.value.reason == "bad_token"

    async def test_an_answer_without_a_token_is_told(self, agent: Agent) -> None:
        """As is one that is no answer at all."""
        await agent.publish({})
        source = JWTSVIDSource(agent.endpoint)
        for answer, reason in (
            (workload_pb2.JWTSVIDResponse(), "no_identity"),
            (b"\xff", "bad_answer"),
        ):
            agent.mint = lambda _, said=answer: said  # type: ignore[misc]
            with pytest.raises(MaterialError) as caught:
                await source.fetch("audience")
            assert caught.value.reason == reason

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (grpc.StatusCode.PERMISSION_DENIED, "withdrawn"),
            (grpc.StatusCode.UNAVAILABLE, "agent_unavailable"),
            (grpc.StatusCode.INTERNAL, "agent_failed"),
            (grpc.StatusCode.DEADLINE_EXCEEDED, "agent_silent"),
        ],
    )
    async def test_say_why_there_is_none(
        self, agent: Agent, code: grpc.StatusCode, reason: str
    ) -> None:
        """A caller that cannot say who it is hears why."""
        await agent.end(code)
        with pytest.raises(MaterialError) as caught:
            await JWTSVIDSource(agent.endpoint).fetch("audience")
        assert caught.value.reason == reason

    async def test_an_agent_that_is_not_there_is_not_waited_for(
        self, tmp_path: Path
    ) -> None:
        """Each question has its time."""
        source = JWTSVIDSource(f"unix://{tmp_path}/none.sock")
        with pytest.raises(MaterialError) as caught:
            await source.fetch("audience", wait=0.5)
        assert caught.value.reason in {"agent_unavailable", "agent_silent"}

    @pytest.mark.parametrize("audience", [(), ("",), ("a", "")])
    async def test_are_for_somebody(
        self, tmp_path: Path, audience: tuple[str, ...]
    ) -> None:
        """A token for nobody would be one for everybody who asks no audience."""
        source = JWTSVIDSource(f"unix://{tmp_path}/none.sock")
        with pytest.raises(ValueError, match="somebody"):
            await source.fetch(*audience)


def test_a_bundle_shows_no_more_than_its_name() -> None:
    """Keys are public, but no reading for a log."""
    assert "key-1" not in repr(JWTBundle("cluster.local", {"key-1": OURS.jwk()}))
