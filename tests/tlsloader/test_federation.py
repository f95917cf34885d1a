"""Trust domains that meet at a door: each is believed about its own, while known."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.forge import Forge, Svid
from tests.tlsloader.posing import Ear, posing
from tests.tlsloader.transport import (
    PICOD,
    ROUTER,
    SETTINGS,
    RotatingSource,
    hosted,
    knock,
    tls,
    until,
    way,
)

if TYPE_CHECKING:
    from tlsloader import Material

BOTH_LOOPS = True

AT_ONCE = 1.0
Code = grpc.StatusCode
US, THEM, OTHERS = Forge(), Forge("partner.test"), Forge("other.test")
# Without key identifiers, OpenSSL tells roots apart by their names
THEM.root = THEM.signer(subject="the partner's CA")
PARTNER = "spiffe://partner.test/ns/x/sa/planner"
STRANGE = "spiffe://other.test/ns/x/sa/planner"
ALL = f"{ROUTER},{PARTNER},{STRANGE}"


def minted(forge: Forge, identity: str) -> Svid:
    """Have the CA of *forge* mint any *identity* it is asked for."""
    return forge.svid(identity)


def trusting(identity: str, *foreign: Forge, generation: int = 1) -> Material:
    return US.material(identity, foreign=foreign, generation=generation)


async def test_each_domain_is_let_in_by_its_own_roots() -> None:
    """With two bundles at one door both kinds of callers come in, by their names."""
    async with hosted(US.source(PICOD, foreign=[THEM]), allow=ALL) as node:
        for forge, identity in ((US, ROUTER), (THEM, PARTNER)):
            source = forge.source(identity, foreign=[US] if forge is THEM else [])
            async with way(source, node.address) as out:
                assert await out.call("Caller") == identity.encode()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(
    ("forge", "identity"), [(THEM, ROUTER), (US, PARTNER), (THEM, STRANGE)]
)
async def test_no_domain_vouches_for_another(
    forge: Forge, identity: str, version: str
) -> None:
    """Their CA says that somebody is ours: OpenSSL, which holds both roots, agrees."""
    source = US.source(PICOD, foreign=[THEM])
    async with hosted(source, allow=ALL, minimum_tls="1.2") as node:
        assert await knock(node.address, tls(minted(forge, identity), version)) == b""
        await until(lambda: node.acceptor.refusals)
        unknown = identity == STRANGE
        reason = "no_bundle" if unknown else "untrusted_chain"
        assert node.acceptor.refusals == {reason: 1}
        good = tls(minted(THEM, PARTNER), version)
        assert (await knock(node.address, good))[3] == SETTINGS


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(
    ("forge", "identity"), [(THEM, PICOD), (US, PARTNER), (THEM, STRANGE)]
)
async def test_no_domain_vouches_for_anothers_server(
    forge: Forge, identity: str, version: str
) -> None:
    """The same where we are the client; not a byte is said to it."""
    ear = Ear()
    source: Any = US.source(ROUTER, foreign=[THEM])
    async with (
        posing(minted(forge, identity), ear, version) as address,
        way(source, address, expected=identity, minimum_tls="1.2") as out,
    ):
        error = await out.refusal()
        assert error.code() is Code.UNAVAILABLE
        assert identity in str(error.details())
        assert set(out.dialer.tally.refusals) == {"untrusted_chain"}
    assert not ear.heard


async def test_a_partner_comes_and_goes_while_the_door_is_open() -> None:
    """Its bundle is all that it takes; others do not notice."""
    source = RotatingSource(trusting(PICOD))
    theirs = THEM.source(PARTNER, foreign=[US])
    async with (
        hosted(source, allow=ALL) as node,
        way(US.source(ROUTER), node.address) as ours,
        way(theirs, node.address) as partner,
    ):
        stays = ours.both()
        for generation in (2, 4):
            assert (await partner.refusal()).code() is Code.UNAVAILABLE
            source.publish(trusting(PICOD, THEM, generation=generation))
            await partner.served(AT_ONCE)
            stream = partner.both()
            await stream.write(b"x")
            assert await stream.read() == b"x"
            source.publish(trusting(PICOD, generation=generation + 1))
            async with asyncio.timeout(AT_ONCE):
                assert await stream.code() is Code.PERMISSION_DENIED
                assert await stream.details() == "denied"
            await stays.write(b"y")
            assert await stays.read() == b"y"
        assert node.acceptor.tally.evictions == {"no_bundle": 2}
        stays.cancel()


async def test_a_domain_of_servers_comes_and_goes() -> None:
    """As the sandboxes' does for the Router; the channel stays the same."""
    source = RotatingSource(trusting(ROUTER))
    server = THEM.source(PARTNER, foreign=[US])
    async with (
        hosted(server) as node,
        way(source, node.address, expected=PARTNER) as out,
    ):
        for generation in (2, 4):
            assert PARTNER in str((await out.refusal()).details())
            source.publish(trusting(ROUTER, THEM, generation=generation))
            await out.served(AT_ONCE)
            stream = out.both()
            await stream.write(b"x")
            assert await stream.read() == b"x"
            source.publish(trusting(ROUTER, generation=generation + 1))
            async with asyncio.timeout(AT_ONCE):
                assert await stream.code() is Code.UNAVAILABLE
                details = str(await stream.details())
            assert f"hung up on {PARTNER}" in details
            assert "no bundle of the trust domain partner.test" in details


async def test_a_partner_whose_root_is_replaced_is_judged_by_the_new_one() -> None:
    """Leaves of the old root end with it, however long they would live."""
    source = RotatingSource(trusting(PICOD, THEM))
    renewed = Forge("partner.test")
    renewed.root = renewed.signer(subject="the partner's next CA")
    async with hosted(source, allow=ALL) as node:
        old, new = tls(minted(THEM, PARTNER)), tls(minted(renewed, PARTNER))
        assert (await knock(node.address, old))[3] == SETTINGS
        assert await knock(node.address, new) == b""
        source.publish(trusting(PICOD, renewed, generation=2))
        assert await knock(node.address, old) == b""
        assert (await knock(node.address, new))[3] == SETTINGS
