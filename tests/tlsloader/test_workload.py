from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clock import SYSTEM
from tests.fakes import running, until
from tests.forge import Forge
from tests.tlsloader.agent import Agent, offered, roots
from tlsloader import BundlePaths, Material, MaterialError, SpiffeID
from tlsloader._der import _split
from tlsloader.workload import WorkloadAPISource, load_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
OTHER = "spiffe://cluster.local/ns/agentcube-system/sa/other"


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    """Listen at a socket; nobody has an identity yet."""
    agent = Agent(tmp_path / "agent.sock")
    async with agent.running():
        yield agent


@dataclass
class Followed:
    source: WorkloadAPISource
    seen: asyncio.Queue[Material] = field(default_factory=asyncio.Queue)

    async def next(self) -> Material:
        async with asyncio.timeout(5):
            return await self.seen.get()

    async def refuses(self, reason: str, times: int = 1) -> None:
        async with asyncio.timeout(5):
            await until(lambda: self.source.refusals[reason] == times)


@asynccontextmanager
async def following(agent: Agent, **options: Any) -> AsyncIterator[Followed]:
    endpoint = options.pop("endpoint", agent.endpoint)
    patience = options.pop("patience", 5.0)
    source = await WorkloadAPISource.load(endpoint, wait=10, **options)
    followed, asked = Followed(source), agent.asked
    source.subscribe(followed.seen.put_nowait)
    async with running(source.follow(poll=0.05, patience=patience)):
        await until(lambda: agent.asked > asked)
        yield followed


class LateClock:
    """The system's time, and a jump on top; counts who sleeps."""

    ahead: Any = None
    sleeps = 0

    def now(self) -> datetime:
        return SYSTEM.now() + self.ahead if self.ahead else SYSTEM.now()

    def monotonic(self) -> float:
        return SYSTEM.monotonic()

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        await SYSTEM.sleep(seconds)


async def test_gets_an_identity(agent: Agent, forge: Forge) -> None:
    """An answer is one generation, checked by the same rules as files."""
    svid = forge.svid(ROUTER)
    await agent.say(offered(ROUTER, svid, forge))
    source = await load_source(None, agent.endpoint, BundlePaths())
    own = source.current()
    assert (str(own.identity), own.leaf_sha256) == (ROUTER, svid.leaf_sha256)
    assert own.bundles["cluster.local"] == forge.trust
    assert (source.generation, source.failures, source.usable) == (1, 0, True)


async def test_each_answer_replaces_the_one_before(agent: Agent, forge: Forge) -> None:
    """A new leaf is a generation, the same one again is none."""
    first, second = (offered(ROUTER, forge.svid(ROUTER), forge) for _ in range(2))
    await agent.say(first)
    async with following(agent) as followed:
        await agent.say(first)
        await agent.say(second)
        assert (await followed.next()).generation == 2
    assert (followed.seen.empty(), followed.source.failures) == (True, 0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"x509_svid": b"junk"}, "bad_certificate"),
        ({"x509_svid": b"\x30\x84\xff"}, "bad_certificate"),
        ({"x509_svid": b""}, "empty_file"),
        ({"x509_svid_key": b"junk"}, "bad_key"),
        ({"x509_svid_key": b""}, "empty_file"),
        ({"bundle": b""}, "empty_file"),
        ({"bundle": b"junk"}, "bad_certificate"),
        ({"spiffe_id": OTHER}, "other_identity"),
    ],
)
async def test_a_bad_answer_keeps_the_last_good(
    agent: Agent, forge: Forge, changed: dict[str, Any], reason: str
) -> None:
    """It is counted by its reason, and the next good one is taken."""
    svid = forge.svid(ROUTER)
    await agent.say(offered(ROUTER, svid, forge))
    async with following(agent) as followed:
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge, **changed))
        await followed.refuses(reason)
        assert followed.source.current().leaf_sha256 == svid.leaf_sha256
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
        assert (await followed.next()).generation == 2
    assert dict(followed.source.refusals) == {reason: 1}


async def test_an_expired_answer_is_not_taken(agent: Agent, forge: Forge) -> None:
    """An agent without its server hands out what it has, also when that is over."""
    old = offered(ROUTER, forge.svid(ROUTER, age=7200, life=-1), forge)
    await agent.say(old)
    with pytest.raises(MaterialError) as caught:
        await WorkloadAPISource.load(agent.endpoint, wait=0.2)
    assert caught.value.reason == "expired"
    svid = forge.svid(ROUTER)
    await agent.say(offered(ROUTER, svid, forge))
    async with following(agent) as followed:
        await agent.say(old)
        await followed.refuses("expired")
        assert followed.source.current().leaf_sha256 == svid.leaf_sha256


async def test_an_answer_that_is_none_is_a_failure(agent: Agent, forge: Forge) -> None:
    """What is no message of the protocol is counted, and the next one is asked for."""
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with following(agent) as followed:
        before = followed.source.current()
        await agent.babble(b"\xff\xff\xff")
        await followed.refuses("bad_answer")
        assert followed.source.current() is before
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
        assert (await followed.next()).generation == 2


async def test_an_answer_without_an_identity_is_kept_out(
    agent: Agent, forge: Forge
) -> None:
    """Nobody to be is no reason to be nobody: the last good one goes on."""
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with following(agent) as followed:
        await agent.say()
        await followed.refuses("no_identity")
        assert followed.source.usable


async def test_a_conversation_that_just_ends_is_begun_anew(
    agent: Agent, forge: Forge
) -> None:
    """A stream that ends without an error is a loss like any other, not a silence."""
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with following(agent) as followed:
        asked = agent.asked
        await agent.end(grpc.StatusCode.OK)
        await followed.refuses("agent_unavailable")
        async with asyncio.timeout(5):
            await until(lambda: agent.asked > asked)
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
        assert (await followed.next()).generation == 2


@pytest.mark.slow
async def test_an_agent_that_hangs_is_missed(agent: Agent, forge: Forge) -> None:
    """A stream that is open and silent is asked anew before our time is over."""
    forge.now = SYSTEM.now()
    await agent.say(offered(ROUTER, forge.svid(ROUTER, life=4), forge))
    async with following(agent, patience=0.3) as followed:
        asked, confirmed = agent.asked, followed.source.confirmed
        await agent.hang()
        await followed.refuses("agent_silent")
        assert agent.asked > asked
        assert dict(followed.source.refusals) == {"agent_silent": 1}
        confirmed = followed.source.confirmed
        async with asyncio.timeout(5):
            before = agent.asked
            await until(lambda: agent.asked > before + 1)
        assert followed.source.confirmed == confirmed  # nobody confirms anything
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
        assert (await followed.next()).generation == 2
        async with asyncio.timeout(5):
            await until(lambda: followed.source.confirmed > confirmed)


async def test_says_that_an_agent_does_not_answer(agent: Agent) -> None:
    """At the start, too, silence has a name."""
    await agent.hang()
    with pytest.raises(MaterialError) as caught:
        await WorkloadAPISource.load(agent.endpoint, wait=0.2)
    assert caught.value.reason == "agent_silent"


async def test_nobody_becomes_somebody_else(agent: Agent, forge: Forge) -> None:
    """An entry that is replaced by another's does not make us that other."""
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with following(agent) as followed:
        before = followed.source.current()
        await agent.say(offered(OTHER, forge.svid(OTHER), forge))
        await followed.refuses("identity_changed")
        assert followed.source.current() is before


async def test_never_takes_anothers_key(agent: Agent, forge: Forge) -> None:
    """Key and certificate belong together, from an agent as from files."""
    mine, theirs = (
        offered(ROUTER, forge.svid(ROUTER), forge),
        offered(ROUTER, forge.svid(ROUTER), forge),
    )
    mine.x509_svid_key = theirs.x509_svid_key
    await agent.say(mine)
    with pytest.raises(MaterialError) as caught:
        await WorkloadAPISource.load(agent.endpoint, wait=0.2)
    assert caught.value.reason == "key_mismatch"


@pytest.mark.slow
async def test_a_withdrawn_identity_ends_with_its_time(
    agent: Agent, forge: Forge, caplog: pytest.LogCaptureFixture
) -> None:
    """PERMISSION_DENIED is told once; the last good one lives until it expires."""
    clock = LateClock()
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with following(agent, clock=clock) as followed:
        before, source = agent.asked, followed.source
        await agent.end(grpc.StatusCode.PERMISSION_DENIED)
        await followed.refuses("withdrawn")
        async with asyncio.timeout(5):
            await until(lambda: agent.asked >= before + 3)
        assert source.usable
        assert dict(source.refusals) == {"withdrawn": 1}
        clock.ahead = source.current().not_after - clock.now() + timedelta(seconds=1)
        async with asyncio.timeout(5):
            await until(lambda: "identity expired" in caplog.messages)
        assert not source.usable
        clock.ahead = None
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
        assert (await followed.next()).generation == 2
        assert source.usable


@pytest.mark.slow
async def test_is_back_within_a_second_of_the_agent(
    tmp_path: Path, forge: Forge
) -> None:
    """An agent that was away for longer than gRPC's first back-offs is found fast."""
    agent = Agent(tmp_path / "agent.sock")
    clock = LateClock()
    async with agent.running():
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
        source = await WorkloadAPISource.load(agent.endpoint, clock=clock)
    followed = Followed(source)
    source.subscribe(followed.seen.put_nowait)
    async with running(source.follow()):
        await followed.refuses("agent_unavailable")
        async with asyncio.timeout(10):
            await until(lambda: clock.sleeps >= 12)  # three seconds of attempts
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
        async with agent.running(), asyncio.timeout(1):
            assert (await followed.seen.get()).generation == 2
            assert dict(source.refusals) == {"agent_unavailable": 1}


async def test_finds_an_agent_whose_socket_was_replaced(
    tmp_path: Path, forge: Forge
) -> None:
    """A new agent under the old name is found as soon as the old one is gone."""
    old, new = Agent(tmp_path / "old.sock"), Agent(tmp_path / "new.sock")
    for agent in (old, new):
        await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    name, link = tmp_path / "agent.sock", tmp_path / "link"
    name.symlink_to("old.sock")
    async with new.running(), AsyncExitStack() as first:
        await first.enter_async_context(old.running())
        async with following(old, endpoint=f"unix://{name}") as followed:
            link.symlink_to("new.sock")
            link.rename(name)
            await first.aclose()
            async with asyncio.timeout(2):
                assert (await followed.seen.get()).generation == 2
            assert dict(followed.source.refusals) == {"agent_unavailable": 1}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "withdrawn"),
        (grpc.StatusCode.UNAVAILABLE, "agent_unavailable"),
        (grpc.StatusCode.INTERNAL, "agent_failed"),
    ],
)
async def test_says_why_there_is_no_identity(
    agent: Agent, code: grpc.StatusCode, reason: str
) -> None:
    """A service that cannot say who it is does not start, and tells what it heard."""
    await agent.end(code)
    with pytest.raises(MaterialError, match="no identity issued") as caught:
        await WorkloadAPISource.load(agent.endpoint, wait=0.2)
    assert caught.value.reason == reason


async def test_waits_for_an_agent_that_is_not_there(
    tmp_path: Path, forge: Forge, caplog: pytest.LogCaptureFixture
) -> None:
    """Services and agents start in any order."""
    agent = Agent(tmp_path / "agent.sock")
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with asyncio.TaskGroup() as group:
        loading = group.create_task(WorkloadAPISource.load(agent.endpoint))
        async with asyncio.timeout(5):
            await until(lambda: "is not there" in caplog.text or _awaited(caplog))
        async with agent.running():
            assert (await loading).generation == 1


def _awaited(caplog: pytest.LogCaptureFixture) -> bool:
    reasons = (vars(record).get("reason") for record in caplog.records)
    return "agent_unavailable" in reasons


async def test_foreign_bundles_come_and_go_and_are_never_merged(
    agent: Agent, forge: Forge
) -> None:
    """Each answer is the full state: a bundle that is absent is withdrawn."""
    other, svid = Forge("other.test"), offered(ROUTER, forge.svid(ROUTER), forge)
    await agent.say(svid)
    async with following(agent) as followed:
        await agent.say(svid, federated={"spiffe://other.test": roots(other)})
        bundles = (await followed.next()).bundles
        assert bundles == {"cluster.local": forge.trust, "other.test": other.trust}
        await agent.say(svid)
        assert (await followed.next()).bundles == {"cluster.local": forge.trust}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("spiffe://cluster.local", "own_domain_twice"),
        ("spiffe://other.test/workload", "bad_federated_domain"),
        ("Other", "bad_federated_domain"),
    ],
)
async def test_odd_foreign_bundles_are_refused(
    agent: Agent, forge: Forge, name: str, reason: str
) -> None:
    """Above all none that would add roots to our own trust domain."""
    svid = offered(ROUTER, forge.svid(ROUTER), forge)
    await agent.say(svid, federated={name: roots(Forge("cluster.local"))})
    with pytest.raises(MaterialError) as caught:
        await WorkloadAPISource.load(agent.endpoint, wait=0.2)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "bundle", "reason"),
    [
        ("spiffe://other.test", b"junk", "bad_certificate"),
        ("spiffe://cluster.local", None, "own_domain_twice"),
        ("spiffe://other.test/workload", None, "bad_federated_domain"),
    ],
)
async def test_an_odd_foreign_bundle_harms_nobody_else(
    agent: Agent, forge: Forge, name: str, bundle: bytes | None, reason: str
) -> None:
    """Later, its last good one stays, and our own identity goes on."""
    other = Forge("other.test")
    good = {"spiffe://other.test": roots(other)}
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge), federated=good)
    async with following(agent) as followed:
        svid = forge.svid(ROUTER)
        odd = roots(Forge("cluster.local")) if bundle is None else bundle
        await agent.say(offered(ROUTER, svid, forge), federated=good | {name: odd})
        fresh = await followed.next()
        assert fresh.leaf_sha256 == svid.leaf_sha256
        assert fresh.bundles == {
            "cluster.local": forge.trust,
            "other.test": other.trust,
        }
        assert dict(followed.source.refusals) == {reason: 1}


async def test_a_folder_of_bundles_goes_with_an_agent(
    agent: Agent, forge: Forge, tmp_path: Path
) -> None:
    """Files may come and go there, too."""
    folder, other = tmp_path / "bundles", Forge("other.test")
    folder.mkdir()
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with following(agent, bundles=BundlePaths(folder=folder)) as followed:
        file = folder / "other.test.pem"
        file.write_bytes(other.bundle)
        assert (await followed.next()).bundles["other.test"] == other.trust
        file.unlink()
        assert set((await followed.next()).bundles) == {"cluster.local"}


async def test_a_bundle_file_wins_over_the_agents(
    agent: Agent, forge: Forge, tmp_path: Path
) -> None:
    """What the operator gave for a trust domain is all that counts for it."""
    mine, theirs = Forge("other.test"), Forge("other.test")
    file = tmp_path / "other.pem"
    file.write_bytes(mine.bundle)
    svid = offered(ROUTER, forge.svid(ROUTER), forge)
    await agent.say(svid, federated={"spiffe://other.test": roots(theirs)})
    async with following(agent, bundles=BundlePaths({"other.test": file})) as followed:
        assert followed.source.current().bundles["other.test"] == mine.trust
        newer = Forge("other.test")
        file.write_bytes(newer.bundle)
        assert (await followed.next()).bundles["other.test"] == newer.trust


async def test_picks_the_identity_that_was_asked_for(
    agent: Agent, forge: Forge
) -> None:
    """Several entries may match one process."""
    ids = OTHER, ROUTER
    await agent.say(*(offered(each, forge.svid(each), forge) for each in ids))
    chosen = await load_source(
        None, agent.endpoint, BundlePaths(), SpiffeID.parse(ROUTER)
    )
    assert str(chosen.current().identity) == ROUTER
    stranger = SpiffeID.parse(f"{ROUTER}-2")
    with pytest.raises(MaterialError) as caught:
        await WorkloadAPISource.load(agent.endpoint, spiffe_id=stranger, wait=0.1)
    assert caught.value.reason == "identity_not_offered"


async def test_stays_who_it_is(agent: Agent, forge: Forge) -> None:
    """A second entry that happens to come first does not change our identity."""
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with following(agent) as followed:
        await agent.say(
            *(offered(each, forge.svid(each), forge) for each in (OTHER, ROUTER))
        )
        assert str((await followed.next()).identity) == ROUTER


async def test_an_answer_that_is_not_valid_yet_is_tried_again(
    agent: Agent, forge: Forge, caplog: pytest.LogCaptureFixture
) -> None:
    """Clocks of agent and service differ; the agent will not say it twice."""
    caplog.set_level(logging.INFO)
    clock = LateClock()
    await agent.say(offered(ROUTER, forge.svid(ROUTER), forge))
    async with following(agent, clock=clock) as followed:
        late = forge.svid(ROUTER, age=-60)
        await agent.say(offered(ROUTER, late, forge))
        await followed.refuses("not_yet_valid")
        clock.ahead = timedelta(seconds=61)
        assert (await followed.next()).leaf_sha256 == late.leaf_sha256


@given(st.binary(max_size=300))
def test_der_is_split_without_loss_or_refused(data: bytes) -> None:
    """Whatever an agent sends, no byte of it is dropped or read twice."""
    try:
        parts = list(_split(data, "x"))
    except MaterialError as error:
        assert error.reason == "bad_certificate"  # noqa: PT017
    else:
        assert b"".join(parts) == data
