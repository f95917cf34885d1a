"""Sandboxes' identities from the real SPIRE, by the Delegated Identity API."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from authority import AuthorityError, Issued
from authority import _spire_pb2 as pb
from authority._spire_calls import Calls
from authority._spire_wire import entry_to_wire
from authority.spire import Spire as Where
from authority.spire import SpireIssuer
from clock import SYSTEM
from tests.fakes import until
from tests.spire.spire import DELEGATE
from tlsloader import Material, SpiffeID
from workloadmanager import _ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.spire.spire import Spire

pytestmark = [pytest.mark.spire, pytest.mark.slow]

DOMAIN = "sandbox.cluster.local"
ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
TTL = timedelta(seconds=20)
HOUR = timedelta(hours=1)
OTHER_GROUP = 4106


def name() -> SpiffeID:
    return _ids.identity_of(DOMAIN, "agentcube-system", _ids.sandbox_id())


def where(spire: Spire) -> Where:
    server, agent = (each.replace("://", ":") for each in (spire.server, spire.admin))
    return Where(server, agent, SpiffeID.parse(spire.parent))


def good(issued: Issued, issuer: SpireIssuer) -> Material:
    """Judge *issued* as its sandbox will."""
    return Material.parse(
        key=issued.key, chain=issued.chain, bundle=issuer.bundle, now=SYSTEM.now()
    )


@asynccontextmanager
async def issuing(
    spire: Spire,
    *,
    life: timedelta = HOUR,
    spare: int = 4,
    adopt: SpiffeID | None = None,
) -> AsyncIterator[SpireIssuer]:
    """Run an issuer in this process, as the delegate, until its pool is full."""
    async with spire.entry(f"spiffe://{DOMAIN}{DELEGATE}"):
        issuer = SpireIssuer(where(spire), DOMAIN, names=name, life=life, spare=spare)
        await issuer.begin()
        if adopt is not None:
            issuer.adopt(adopt)
        async with asyncio.TaskGroup() as tasks:
            job = tasks.create_task(issuer.run())
            async with asyncio.timeout(60):
                await until(lambda: issuer.ready == spare)
                yield issuer
            job.cancel()


async def eventually(condition: Callable[[], object], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await until(condition)


async def test_gives_one_made_ahead_within_a_moment(sandboxes: Spire) -> None:
    """No call is made for it: the next sandbox has the identity of the next slot."""
    took: list[float] = []
    async with issuing(sandboxes, spare=20) as issuer:
        given = set()
        for _ in range(20):
            began = time.perf_counter()
            identity = issuer.reserve()
            issued = await issuer.issue(identity)
            took.append(time.perf_counter() - began)
            assert good(issued, issuer).identity == identity
            given.add(identity)
        assert len(given) == 20
        await eventually(lambda: issuer.ready == 20, 10)  # it is filled again
        for identity in given:
            issuer.revoke(identity)
    middle = sorted(took)[len(took) // 2] * 1000
    print(f"an identity is handed out in {middle:.3f} ms (median)")  # noqa: T201
    assert middle < 1


async def test_renews_by_itself(sandboxes: Spire) -> None:
    """A new SVID is told as soon as the agent has it, before the old one ends."""
    async with issuing(sandboxes, life=TTL) as issuer:
        identity = issuer.reserve()
        first = await issuer.issue(identity)
        told: list[SpiffeID | None] = []
        issuer.subscribe(told.append)
        await eventually(lambda: identity in told, 30)
        second = await issuer.issue(identity)
        assert second.not_after > first.not_after > SYSTEM.now()
        assert good(second, issuer).identity == identity
        assert second.key != first.key


async def test_an_entry_ends_with_its_sandbox(sandboxes: Spire) -> None:
    """At the server, so the agent renews it for nobody; and it never comes back."""
    async with issuing(sandboxes) as issuer:
        identity = issuer.reserve()
        await issuer.issue(identity)
        assert str(identity) in await sandboxes.identities()
        issuer.revoke(identity)
        async with asyncio.timeout(5):
            while str(identity) in await sandboxes.identities():
                pass
    left = await sandboxes.identities()
    assert not [each for each in left if "/sandbox/" in each]


async def test_what_a_killed_process_left_is_deleted(sandboxes: Spire) -> None:
    """At the next start; who lives on keeps the entry, and gets its next SVIDs."""
    alive, dead = name(), name()
    killed = Calls(where(sandboxes).server, where(sandboxes).agent)
    parent = SpiffeID.parse(sandboxes.parent)
    await killed.create([entry_to_wire(each, parent, HOUR) for each in (alive, dead)])
    await killed.aclose()
    before = await sandboxes.identities()
    assert {str(alive), str(dead)} <= before
    async with issuing(sandboxes, adopt=alive) as issuer:
        assert good(await issuer.issue(alive), issuer).identity == alive
        async with asyncio.timeout(5):
            while str(dead) in await sandboxes.identities():
                pass
        assert str(alive) in await sandboxes.identities()
        issuer.revoke(alive)


async def test_entries_that_somebody_deletes_are_not_given(sandboxes: Spire) -> None:
    """A spare one is replaced; who has one keeps it for as long as it is good."""
    async with issuing(sandboxes, spare=1) as issuer:
        taken = issuer.reserve()
        known = await issuer.issue(taken)
        await eventually(lambda: issuer.ready == 1, 10)
        (spare,) = [each for each in issuer._slots if not each.taken]
        for slot in tuple(issuer._slots):
            await sandboxes.delete(slot.entry)
        await eventually(lambda: issuer._slots.find(spare.identity) is None, 10)
        await eventually(lambda: issuer.ready == 1, 10)
        assert (await issuer.issue(taken)).leaf_sha256 == known.leaf_sha256
        issuer.revoke(taken)


async def test_more_at_once_than_were_made_ahead(sandboxes: Spire) -> None:
    """They wait for the agent to hear of them, and all get theirs."""
    async with issuing(sandboxes, spare=2) as issuer:
        wanted = [issuer.reserve() for _ in range(12)]
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            given = [tasks.create_task(issuer.issue(each)) for each in wanted]
        assert [each.result().identity for each in given] == wanted
        print(f"ten beyond the pool took {time.monotonic() - began:.2f} s")  # noqa: T201
        for each in wanted:
            issuer.revoke(each)


async def test_outlives_the_agent(sandboxes: Spire) -> None:
    """Killed, it is missed in words; within a second of its return all goes on."""
    async with issuing(sandboxes, spare=1, life=TTL) as issuer:
        identity = issuer.reserve()
        known = await issuer.issue(identity)
        await eventually(lambda: issuer.ready == 1, 10)
        sandboxes.kill_agent()
        await eventually(lambda: issuer.faults["agent_unavailable"], 5)
        assert (await issuer.issue(identity)).leaf_sha256 == known.leaf_sha256
        await issuer.issue(issuer.reserve())  # one was made ahead
        began = time.monotonic()
        with pytest.raises(AuthorityError) as caught:
            await issuer.issue(issuer.reserve())
        assert caught.value.reason == "agent_unavailable"
        assert time.monotonic() - began < 5
        fresh: list[float] = []
        issuer.subscribe(lambda _: fresh.append(time.monotonic()))
        await asyncio.to_thread(sandboxes.start_agent)
        healthy = time.monotonic()
        later = issuer.reserve()
        assert good(await issuer.issue(later), issuer).identity == later
        print(f"after the agent: {time.monotonic() - healthy:.2f} s")  # noqa: T201
        await eventually(lambda: not issuer._faults.current, 5)


async def test_outlives_a_frozen_agent(sandboxes: Spire) -> None:
    """What is made ahead is given, more is refused in time, and then it goes on."""
    async with issuing(sandboxes, spare=1) as issuer:
        with sandboxes.frozen("spire-agent"):
            first = issuer.reserve()
            assert good(await issuer.issue(first), issuer).identity == first
            began = time.monotonic()
            with pytest.raises(AuthorityError) as caught:
                await issuer.issue(issuer.reserve())
            assert caught.value.reason == "pool_empty"
            assert "see that server and agent answer" in caught.value.hint
            assert time.monotonic() - began < 20
        assert good(await patiently(issuer), issuer)


async def test_outlives_the_server(sandboxes: Spire) -> None:
    """What is made ahead is given; then it is refused; then it goes on."""
    async with issuing(sandboxes, spare=1) as issuer:
        sandboxes.kill_server()
        first = issuer.reserve()
        assert good(await issuer.issue(first), issuer).identity == first
        with pytest.raises(AuthorityError) as caught:
            await issuer.issue(issuer.reserve())
        assert caught.value.reason in {"server_unavailable", "pool_empty"}
        issuer.revoke(first)  # not now, but it is not forgotten
        await asyncio.to_thread(sandboxes.start_server)
        later = await patiently(issuer)
        assert good(later, issuer)
        async with asyncio.timeout(10):
            while str(first) in await sandboxes.identities():
                pass


async def patiently(issuer: SpireIssuer) -> Issued:
    """Try again until there is an identity, as callers are told to."""
    async with asyncio.timeout(60):
        while True:
            identity = issuer.reserve()
            try:
                return await issuer.issue(identity)
            except AuthorityError:
                issuer.revoke(identity)


async def test_a_new_root_is_told_before_it_signs(sandboxes: Spire) -> None:
    """Prepared, it is in the bundle at once, for the Router and every sandbox."""
    async with issuing(sandboxes) as issuer:
        told: list[SpiffeID | None] = []
        issuer.subscribe(told.append)
        before = issuer.bundle.count(b"BEGIN")
        await sandboxes.authority("prepare")
        await eventually(lambda: None in told, 10)
        assert issuer.bundle.count(b"BEGIN") == before + 1


async def test_somebody_elses_delegate_is_refused(sandboxes: Spire) -> None:
    """Without the right entry the agent gives us nothing, and we say what to do."""
    error = None
    async with asyncio.timeout(10):
        while error is None:  # the agent has yet to hear that we are it no more
            issuer = SpireIssuer(where(sandboxes), DOMAIN, names=name, life=HOUR)
            try:
                await issuer.begin(wait=0)
            except AuthorityError as caught:
                error = caught
            else:
                await issuer._calls.aclose()
    assert error.reason == "agent_denied"
    assert "authorized_delegates" in error.hint


async def test_the_routers_identity_cannot_be_had(
    sandboxes: Spire, spire: Spire
) -> None:
    """The sandboxes' agent has nothing of it, their server can neither enter nor sign.

    Those are all the sockets that the WorkloadManager is told of.
    """
    async with (
        spire.entry(ROUTER, group=OTHER_GROUP),
        issuing(sandboxes, spare=1) as issuer,
    ):
        calls = issuer._calls
        for kind, value in (("unix", f"gid:{OTHER_GROUP}"), ("unix", "uid:0")):
            request = pb.SubscribeToX509SVIDsRequest(
                selectors=[pb.Selector(type=kind, value=value)]
            )
            stream = calls._listen(
                "SubscribeToX509SVIDs", request, pb.SubscribeToX509SVIDsResponse
            )
            said = await anext(stream)
            await stream.aclose()
            names = [each.x509_svid.id.path for each in said.x509_svids]
            assert names in ([], [DELEGATE])
        wanted = entry_to_wire(SpiffeID.parse(ROUTER), issuer._parent, HOUR)
        with pytest.raises(AuthorityError) as caught:
            await calls.create([wanted])
        assert caught.value.reason == "server_refused"
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await mint(calls, ROUTER)
        assert denied.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await mint(calls, f"spiffe://{DOMAIN}/anybody")  # the asking itself is good


async def mint(calls: Calls, identity: str) -> None:
    """Ask the server to sign for *identity*, as an administrator could."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    request = (
        x509.CertificateSigningRequestBuilder(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    der = request.public_bytes(Encoding.DER)
    field = b"\x0a" + bytes([0x80 | len(der) & 0x7F, len(der) >> 7]) + der
    call: Any = calls._server.unary_unary("/spire.api.server.svid.v1.SVID/MintX509SVID")
    await call(field, timeout=10)
