"""Identities of every kind that the rules admit work over TLS 1.3, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from tests.forge import Forge, Way
from tests.tlsloader.transport import PICOD, ROUTER, hosted, way

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH_LOOPS = True

PSS = Way(padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32))
OURS = x509.NameConstraints([x509.UniformResourceIdentifier("cluster.local")], None)
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "Ed25519": (
        ed25519.Ed25519PrivateKey.generate,
        {"key": ed25519.Ed25519PrivateKey.generate()},
    ),
    "P-384": (
        lambda: ec.generate_private_key(ec.SECP384R1()),
        {"way": Way(hashes.SHA384())},
    ),
    "P-521": (
        lambda: ec.generate_private_key(ec.SECP521R1()),
        {"key": ec.generate_private_key(ec.SECP521R1()), "way": Way(hashes.SHA512())},
    ),
    "RSA": (
        lambda: rsa.generate_private_key(65537, 2048),
        {"key": rsa.generate_private_key(65537, 2048), "way": PSS},
    ),
    "constrained to our URIs": (
        lambda: ec.generate_private_key(ec.SECP256R1()),
        {"extra": ((OURS, True),)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("through", [False, True], ids=["root", "intermediate"])
async def test_speaks_with_every_kind_of_identity(
    kind: str,
    through: bool,  # noqa: FBT001
) -> None:
    """Each end proves the other, whatever they and their authority sign with."""
    make, authority = KINDS[kind]
    forge = Forge()
    forge.root = forge.signer(**authority)
    near = [forge.signer(forge.root, subject="near", **authority)] if through else []
    ours = forge.source(ROUTER, key=make(), by=near)
    theirs = forge.source(PICOD, key=make(), by=near)
    async with hosted(theirs) as node, way(ours, node.address) as out:
        assert await out.call("Caller") == ROUTER.encode()
        assert not node.acceptor.refusals
