"""What a SPIRE agent says, whatever it is, becomes a value or a reason."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from authority import AuthorityError
from authority import _spire_pb2 as pb
from authority._spire_faults import Faults
from authority._spire_wire import (
    bundle_from_wire,
    entry_to_wire,
    id_from_wire,
    is_ours,
    svid_from_wire,
)
from tests.forge import Forge, Svid
from tlsloader import Material, SpiffeID

DOMAIN = "sandbox.cluster.local"
SANDBOX = SpiffeID(DOMAIN, "/ns/a/sandbox/sbx-1")
FORGE = Forge(DOMAIN)


def said(identity: SpiffeID, svid: Svid) -> pb.X509SVIDWithKey:
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    inner = pb.X509SVID(
        id=pb.SpiffeID(trust_domain=identity.trust_domain, path=identity.path),
        cert_chain=svid.ders,
    )
    return pb.X509SVIDWithKey(x509_svid=inner, x509_svid_key=der)


def test_the_right_one_is_taken() -> None:
    """Of several only that of our own slot, with its whole chain, leaf first."""
    upper = FORGE.signer(FORGE.root, subject="upper")
    key = ec.generate_private_key(ec.SECP256R1())
    svid = FORGE.svid(str(SANDBOX), by=[upper], key=key)
    mine = said(SANDBOX, svid)
    mine.x509_svid_key = key.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    other = said(SpiffeID(DOMAIN, "/other"), FORGE.svid(f"spiffe://{DOMAIN}/other"))
    answer = pb.SubscribeToX509SVIDsResponse(x509_svids=[other, mine])
    issued = svid_from_wire(answer, SANDBOX)
    assert issued is not None
    assert issued.leaf_sha256 == svid.leaf_sha256
    judged = Material.parse(
        key=issued.key, chain=issued.chain, bundle=FORGE.bundle, now=FORGE.now
    )
    assert judged.identity == SANDBOX
    assert judged.not_after == issued.not_after


def test_none_is_none() -> None:
    """An entry that is not known yet, or not any more, gives no SVID."""
    empty = pb.SubscribeToX509SVIDsResponse(x509_svids=[pb.X509SVIDWithKey()])
    assert svid_from_wire(pb.SubscribeToX509SVIDsResponse(), SANDBOX) is None
    assert svid_from_wire(empty, SANDBOX) is None


def test_only_our_own_domains_roots_are_taken() -> None:
    """An agent of another trust domain is told apart before anything is made there."""
    der = FORGE.root.certificate.public_bytes(Encoding.DER)
    roots = {f"spiffe://{DOMAIN}": der * 2, "spiffe://other.test": der}
    answer = pb.SubscribeToX509BundlesResponse(ca_certificates=roots)
    assert bundle_from_wire(answer, DOMAIN) == FORGE.bundle * 2
    with pytest.raises(AuthorityError) as caught:
        bundle_from_wire(answer, "cluster.local")
    assert caught.value.reason == "agent_other_domain"
    assert "spiffe://other.test" in str(caught.value)


def test_an_entry_is_known_as_ours() -> None:
    """By its selector, which no attestor makes, so that nobody else can ask for it."""
    entry = entry_to_wire(SANDBOX, SpiffeID(DOMAIN, "/host"), timedelta(seconds=1.5))
    assert is_ours(entry)
    assert id_from_wire(entry.spiffe_id) == SANDBOX
    assert entry.x509_svid_ttl == 2
    assert not is_ours(pb.Entry(selectors=[pb.Selector(type="unix", value="uid:0")]))


@given(st.binary(max_size=200), st.binary(max_size=200), st.text(max_size=20))
def test_anything_else_is_a_reason(chain: bytes, key: bytes, path: str) -> None:
    """No bytes of an agent lead to anything but a value or a fault."""
    svid = pb.X509SVIDWithKey(
        x509_svid=pb.X509SVID(
            id=pb.SpiffeID(trust_domain=DOMAIN, path=SANDBOX.path), cert_chain=[chain]
        ),
        x509_svid_key=key,
    )
    with suppress(AuthorityError):
        svid_from_wire(pb.SubscribeToX509SVIDsResponse(x509_svids=[svid]), SANDBOX)
    roots = {f"spiffe://{DOMAIN}": chain}
    with suppress(AuthorityError):
        bundle_from_wire(
            pb.SubscribeToX509BundlesResponse(ca_certificates=roots), DOMAIN
        )
    id_from_wire(pb.SpiffeID(trust_domain=DOMAIN, path=path))


def test_a_fault_is_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Each party's last one, until it is well again."""
    faults = Faults()
    agent = AuthorityError("agent_unavailable", "gone", hint="start it")
    server = AuthorityError("server_failed", "odd", hint="look")
    for error in (agent, agent, server):
        faults.note(error)
    assert faults.counted == {"agent_unavailable": 2, "server_failed": 1}
    assert faults.current is agent
    faults.clear("agent")
    assert faults.current is server
    faults.clear("server")
    assert faults.current is None
    assert caplog.messages.count("identities not issued") == 2
