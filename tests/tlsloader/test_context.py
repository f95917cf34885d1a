"""What our TLS contexts trust, and what a handshake tells us."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.forge import Forge
from tests.tlsloader.transport import (
    PICOD,
    ROUTER,
    SETTINGS,
    call,
    hosted,
    knock,
    show,
    tls,
    until,
    way,
)
from tlsloader import FixedSource, TrustBundle
from tlsloader._context import (
    client_context,
    peer_chain,
    server_context,
    shared_client_context,
)

if TYPE_CHECKING:
    from tests.forge import Svid

BOTH_LOOPS = True

FORGE = Forge()
SANDBOX = "spiffe://sandbox.cluster.local/ns/agentcube/sandbox/sbx-1"


def with_intermediates(forge: Forge, identity: str) -> Svid:
    upper = forge.signer(forge.root, subject="upper")
    lower = forge.signer(upper, subject="lower")
    return forge.svid(identity, by=[lower, upper])


class Seen(asyncio.Protocol):
    """One side of a handshake: the chain that the other side presented."""

    def __init__(self) -> None:
        self.chain: asyncio.Future[tuple[bytes, ...]] = (
            asyncio.get_running_loop().create_future()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.chain.set_result(peer_chain(transport.get_extra_info("ssl_object")))


async def test_both_sides_see_the_whole_chain() -> None:
    """Leaf first, then the intermediates; pins what Python 3.11 keeps private."""
    loop = asyncio.get_running_loop()
    server_side, client_side = Seen(), Seen()
    theirs = with_intermediates(FORGE, PICOD)
    ours = with_intermediates(FORGE, ROUTER)
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.verify_mode = ssl.CERT_REQUIRED
    listening.load_verify_locations(cadata=FORGE.bundle.decode())
    show(listening, theirs)
    server = await loop.create_server(
        lambda: server_side, "127.0.0.1", 0, ssl=listening
    )
    try:
        transport, _ = await loop.create_connection(
            lambda: client_side,
            *server.sockets[0].getsockname(),
            ssl=tls(ours),
            server_hostname="",
        )
        async with asyncio.timeout(5):
            assert await client_side.chain == theirs.ders
            assert await server_side.chain == ours.ders
        assert len(theirs.ders) == 3
        transport.abort()
    finally:
        server.close()


async def test_a_client_without_a_certificate_has_no_chain() -> None:
    """None is an empty chain, never an error."""
    async with hosted(FORGE.source(PICOD), client_certificate="optional") as node:
        assert (await knock(node.address, tls()))[3] == SETTINGS


async def test_a_chain_with_intermediates_is_proven() -> None:
    """Only the root has to be known."""
    async with hosted(FORGE.source(PICOD)) as node:
        answer = await knock(node.address, tls(with_intermediates(FORGE, ROUTER)))
        assert answer[3] == SETTINGS


def test_a_lone_leaf_is_shown_with_its_root_alone() -> None:
    """The one that signed it, of all that we trust: OpenSSL need not look for it."""
    renewed = TrustBundle(
        "cluster.local", (FORGE.signer().certificate, FORGE.root.certificate)
    )
    other = Forge("sandbox.cluster.local")
    material = FORGE.material(PICOD, foreign=[other])
    material = replace(
        material, bundles={**material.bundles, renewed.trust_domain: renewed}
    )
    leaf, *behind = shown(server_context(material, {"cluster.local"}, "optional"))
    assert hashlib.sha256(leaf).hexdigest() == material.leaf_sha256
    assert behind == [FORGE.root.certificate.public_bytes(Encoding.DER)]
    foreign = server_context(material, {other.trust_domain}, "optional")
    assert shown(foreign) == (leaf,)


def shown(listening: ssl.SSLContext) -> tuple[bytes, ...]:
    """Return what a server shows to a client that shows nothing."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = listening.wrap_bio(to_server, to_client, server_side=True)
    client = tls().wrap_bio(to_client, to_server)
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    client.do_handshake()
    return peer_chain(client)


async def test_only_the_domains_of_the_allowlist_are_trusted() -> None:
    """A bundle that we hold for another door opens nothing at this one."""
    other = Forge("sandbox.cluster.local")
    source = FORGE.material(PICOD, foreign=[other])
    context = server_context(source, {"cluster.local"}, "required")
    assert [len(context.get_ca_certs())] == [1]
    both = server_context(source, {"cluster.local", other.trust_domain}, "required")
    assert len(both.get_ca_certs()) == 2
    nobody = client_context(source, set())
    assert nobody.get_ca_certs() == []
    async with hosted(FORGE.source(PICOD, foreign=[other])) as node:
        assert await knock(node.address, tls(other.svid(SANDBOX))) == b""
        await until(lambda: node.acceptor.refusals)
    async with hosted(FORGE.source(PICOD, foreign=[other]), allow=SANDBOX) as node:
        assert (await knock(node.address, tls(other.svid(SANDBOX))))[3] == SETTINGS


async def test_a_foreign_server_is_proven_by_its_own_domain() -> None:
    """As the Router does with sandboxes, whose CA is another one."""
    other = Forge("sandbox.cluster.local")
    async with (
        hosted(other.source(SANDBOX, foreign=[FORGE])) as node,
        way(
            FORGE.source(ROUTER, foreign=[other]), node.address, expected=SANDBOX
        ) as out,
    ):
        assert await out.call("Caller") == ROUTER.encode()


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_context_keeps_the_rules(side: str) -> None:
    """TLS 1.3, a certificate required, no tickets, and no descriptor left open."""
    material = FORGE.material(PICOD)
    files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    if side == "server":
        context = server_context(material, {"cluster.local"}, "required")
        assert context.num_tickets == 0
    else:
        context = client_context(material, {"cluster.local"})
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.options & ssl.OP_NO_TICKET
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208


def test_a_rotation_makes_one_context_for_all_dialers() -> None:
    """It takes 0.8 ms: a thousand of them would hold up the loop for as many calls."""
    old, new = FORGE.material(ROUTER), FORGE.material(ROUTER, generation=2)
    domains = frozenset((FORGE.trust_domain,))
    first = shared_client_context(old, domains, "1.3")
    assert shared_client_context(old, domains, "1.3") is first
    assert shared_client_context(new, domains, "1.3") is not first
    assert shared_client_context(old, frozenset(("other.test",)), "1.3") is not first


async def test_grpcs_own_tls_gets_in_with_a_certificate() -> None:
    """The SDK needs none of this room: native credentials and a DNS name."""
    dns = "agentcube-router"
    svid = FORGE.svid(ROUTER)
    credentials = grpc.ssl_channel_credentials(FORGE.bundle, svid.key, svid.chain)
    options: Any = [("grpc.ssl_target_name_override", dns)]
    server = FORGE.material(PICOD, dns=(dns,))

    async with (
        hosted(FixedSource(server)) as node,
        grpc.aio.secure_channel(node.address, credentials, options=options) as opened,
    ):
        assert await call(opened, "Caller") == ROUTER.encode()
        assert not node.acceptor.refusals
