"""Which paths lead to a root: algorithms, constraints, anchors, dates."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)
from hypothesis import event, given
from hypothesis import strategies as st
from OpenSSL.crypto import X509

from tests.forge import Forge, Signer, Svid, Way
from tlsloader import (
    Allowlist,
    Material,
    MaterialError,
    Peer,
    PeerRefusedError,
    TrustBundle,
    verify_peer,
)
from tlsloader._chain import _any_path, _plain_path, _plain_rules
from tlsloader._errors import RuleBrokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
ALLOW = Allowlist.parse(ROUTER)
FORGE = Forge("cluster.local")
OTHER = x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\5\0")
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


def bundle(*roots: Signer) -> TrustBundle:
    return TrustBundle.parse("cluster.local", b"".join(root.pem for root in roots))


def judged(
    svid: Svid, *roots: Signer, allow: Allowlist = ALLOW, now: datetime = FORGE.now
) -> Peer:
    bundles = {"cluster.local": bundle(*roots)}
    return verify_peer(svid.ders, bundles=bundles, allow=allow, now=now)


def reason(svid: Svid, *roots: Signer, now: datetime = FORGE.now) -> str:
    with pytest.raises(PeerRefusedError) as caught:
        judged(svid, *roots, now=now)
    return caught.value.reason


def alone(svid: Svid) -> Svid:
    """Return *svid* without the intermediates that go with it."""
    return Svid(svid.key, svid.certificates[:1])


KEYS: dict[str, tuple[Callable[[], Any], Way]] = {
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, Way()),
    "P-256": (lambda: ec.generate_private_key(ec.SECP256R1()), Way()),
    "P-384": (lambda: ec.generate_private_key(ec.SECP384R1()), Way(hashes.SHA384())),
    "P-521": (lambda: ec.generate_private_key(ec.SECP521R1()), Way(hashes.SHA512())),
    "RSA": (lambda: rsa.generate_private_key(65537, 2048), Way()),
    "RSA-PSS": (lambda: rsa.generate_private_key(65537, 2048), Way(padding=PSS)),
}


@pytest.mark.slow
@pytest.mark.parametrize("of_leaf", KEYS)
@pytest.mark.parametrize("of_root", KEYS)
def test_admits_every_kind_of_key(of_root: str, of_leaf: str) -> None:
    """Whatever TLS 1.3 can sign with may be a leaf's key or an authority's."""
    make, way = KEYS[of_root]
    root = FORGE.signer(key=make(), way=way)
    svid = FORGE.svid(ROUTER, by=[root], key=KEYS[of_leaf][0]())
    assert str(judged(svid, root).id) == ROUTER
    own = Material.parse(key=svid.key, chain=svid.chain, bundle=root.pem, now=FORGE.now)
    assert str(own.identity) == ROUTER


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.BrainpoolP256R1()),
        ed448.Ed448PrivateKey.generate(),
    ],
    ids=["secp256k1", "P-224", "brainpool", "Ed448"],
)
def test_refuses_other_kinds_of_keys(key: Any) -> None:
    """A key that TLS 1.3 cannot use here, or is weak, proves nothing anywhere."""
    assert reason(FORGE.svid(ROUTER, key=key), FORGE.root) == "unsupported_key"
    near = FORGE.signer(FORGE.root, subject="near", key=key)
    refused = reason(FORGE.svid(ROUTER, by=[near]), FORGE.root)
    assert refused in {"signer_unsupported_key", "weak_signature"}
    with pytest.raises(MaterialError) as caught:
        bundle(FORGE.signer(key=key))
    assert caught.value.reason == "bundle_signer_unsupported_key"


def test_refuses_a_weakly_signed_intermediate() -> None:
    """The signature counts that a path rests on; a root's own proves nothing."""
    weak = FORGE.signer(way=Way(hashes.SHA224()))
    near = FORGE.signer(weak, subject="near")
    svid = FORGE.svid(ROUTER, by=[near])
    assert reason(svid, weak) == "signer_weak_signature"
    assert judged(alone(svid), near).id


def constrained(to: x509.NameConstraints, by: Signer | None = None) -> Signer:
    subject = "narrow" if by else None
    return FORGE.signer(by, subject=subject, extra=((to, True),))


def uri(*hosts: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(host) for host in hosts]


@pytest.mark.parametrize(
    "to",
    [
        x509.NameConstraints(uri("cluster.local"), None),
        x509.NameConstraints(uri("CLUSTER.local"), None),
        x509.NameConstraints(uri("other.test", "cluster.local"), None),
        x509.NameConstraints(uri(".local"), None),
        x509.NameConstraints(None, uri("other.test")),
        x509.NameConstraints(None, uri(".cluster.local")),
        x509.NameConstraints([x509.DNSName("router.test"), *uri(".local")], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("of_root", [True, False])
def test_honours_constraints_to_our_trust_domain(
    to: x509.NameConstraints,
    of_root: bool,  # noqa: FBT001
) -> None:
    """An authority that is bound to our trust domain makes identities of ours."""
    signer = constrained(to, None if of_root else FORGE.root)
    svid = FORGE.svid(ROUTER, by=[signer], dns=("router.test",))
    assert str(judged(svid, signer if of_root else FORGE.root).id) == ROUTER


@pytest.mark.parametrize(
    "to",
    [
        x509.NameConstraints(uri("other.test"), None),
        x509.NameConstraints(uri("local"), None),
        x509.NameConstraints(uri("xcluster.local"), None),
        x509.NameConstraints(uri(".cluster.local"), None),
        x509.NameConstraints(uri("spiffe://cluster.local"), None),
        x509.NameConstraints(uri(""), None),
        x509.NameConstraints(None, uri("cluster.local")),
        x509.NameConstraints(None, uri(".local")),
        x509.NameConstraints(uri("cluster.local"), uri("cluster.local")),
        x509.NameConstraints([x509.DNSName("other.test")], None),
        x509.NameConstraints([OTHER], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("of_root", [True, False])
def test_refuses_what_constraints_forbid(
    to: x509.NameConstraints,
    of_root: bool,  # noqa: FBT001
) -> None:
    """A constraint binds whoever carries it, a root too, and all below it."""
    signer = constrained(to, None if of_root else FORGE.root)
    root = signer if of_root else FORGE.root
    svid = FORGE.svid(ROUTER, by=[signer], dns=("router.test",), others=(OTHER,))
    assert reason(svid, root) == "name_constraints"
    below = FORGE.signer(signer, subject="below")
    svid = FORGE.svid(ROUTER, by=[below, signer], dns=("router.test",), others=(OTHER,))
    assert reason(svid, root) == "name_constraints"


def test_constraints_only_ever_narrow() -> None:
    """An authority cannot give what its own signer may not."""
    outer = constrained(x509.NameConstraints(uri("other.test"), None), FORGE.root)
    inner = FORGE.signer(
        outer,
        subject="inner",
        extra=((x509.NameConstraints(uri("cluster.local"), None), True),),
    )
    svid = FORGE.svid(ROUTER, by=[inner, outer])
    assert reason(svid, FORGE.root) == "name_constraints"


def test_an_intermediate_in_a_bundle_vouches_for_no_more_than_it_signed() -> None:
    """It is trusted because the bundle says so; its own signer is not, nor its kin."""
    middle = FORGE.signer(FORGE.root, subject="middle", path_length=0)
    sibling = FORGE.signer(FORGE.root, subject="sibling")
    assert judged(FORGE.svid(ROUTER, by=[middle]), middle).id
    assert reason(FORGE.svid(ROUTER), middle) == "untrusted_chain"
    shown = FORGE.svid(ROUTER, by=[sibling])
    assert reason(shown, middle) == "untrusted_chain"
    whole = Svid(shown.key, (*shown.certificates, FORGE.root.certificate))
    assert reason(whole, middle) == "untrusted_chain"


def test_an_intermediate_in_a_bundle_keeps_its_own_limits() -> None:
    """Path length, constraints and dates bind an anchor as they bind others."""
    short = FORGE.signer(FORGE.root, subject="short", path_length=0)
    below = FORGE.signer(short, subject="below")
    svid = FORGE.svid(ROUTER, by=[below])
    assert reason(svid, short) == "path_length_exceeded"
    narrow = constrained(x509.NameConstraints(uri("other.test"), None), FORGE.root)
    assert reason(FORGE.svid(ROUTER, by=[narrow]), narrow) == "name_constraints"
    old = FORGE.signer(FORGE.root, subject="old", life=-1)
    assert reason(FORGE.svid(ROUTER, by=[old]), old) == "signer_expired"


def test_what_a_peer_shows_is_never_an_anchor() -> None:
    """Neither an intermediate nor a root is trusted for being shown."""
    middle = FORGE.signer(FORGE.root, subject="middle")
    svid = FORGE.svid(ROUTER, by=[middle, FORGE.root])
    assert reason(svid, Forge("cluster.local").root) == "untrusted_chain"
    with pytest.raises(PeerRefusedError):
        verify_peer(
            svid.ders,
            bundles={"cluster.local": TrustBundle("cluster.local", ())},
            allow=ALLOW,
            now=FORGE.now,
        )


def test_a_root_that_is_shown_is_judged_as_a_root() -> None:
    """OpenSSL shows it behind a lone leaf; it need not keep the rules of others."""
    root = FORGE.signer(usages=None)
    svid = FORGE.svid(ROUTER, by=[root])
    assert judged(svid, root).id
    assert reason(svid, FORGE.root) == "signer_no_cert_sign"


def test_finds_its_root_among_others_of_the_same_name() -> None:
    """While roots roll over, the old and the new one often bear one name."""
    roots = [FORGE.signer() for _ in range(4)]
    for root in roots:
        assert judged(alone(FORGE.svid(ROUTER, by=[root])), *roots).id


def test_finds_its_root_without_key_ids() -> None:
    """Certificates need not say by which key they were signed."""
    plain = Forge("cluster.local", FORGE.now, key_ids=False)
    near = plain.signer(plain.root, subject="near")
    assert judged(plain.svid(ROUTER, by=[near]), plain.signer(), plain.root).id


def test_prefers_the_root_that_is_valid() -> None:
    """A root renewed with the same key stands beside its expired self."""
    old = FORGE.signer(life=-1)
    new = FORGE.signer(key=old.key)
    svid = alone(FORGE.svid(ROUTER, by=[new]))
    for roots in ([old, new], [new, old]):
        assert judged(svid, *roots).not_after > FORGE.now
    assert reason(svid, old) == "signer_expired"


def test_dates_are_whole_seconds_both_included() -> None:
    """The first and the last second of a certificate belong to its life."""
    forge = Forge("cluster.local", FORGE.now.replace(microsecond=0))
    near = forge.signer(forge.root, subject="near", age=10, life=10)
    svid = forge.svid(ROUTER, by=[near])
    for seconds in (-10, 10):
        moment = forge.now + timedelta(seconds=seconds)
        assert judged(svid, forge.root, now=moment).id
        east = moment.astimezone(timezone(timedelta(hours=5)))
        assert judged(svid, forge.root, now=east).id
    early, late = (forge.now + timedelta(seconds=each) for each in (-11, 11))
    assert reason(svid, forge.root, now=early) == "signer_not_yet_valid"
    assert reason(svid, forge.root, now=late) == "signer_expired"


@pytest.mark.parametrize("known", [True, False])
def test_refuses_who_demands_a_policy(known: bool) -> None:  # noqa: FBT001
    """SPIFFE knows no policies, so such a demand is never met; nor passed over."""
    policy = x509.CertificatePolicies(
        [x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None)]
    )
    extra = ((policy, False),) if known else ()
    demand = (x509.PolicyConstraints(0, None), True)
    signer = FORGE.signer(FORGE.root, subject="strict", extra=(demand, *extra))
    svid = FORGE.svid(ROUTER, by=[signer], extra=extra)
    assert reason(svid, FORGE.root) == "certificate_policy"
    signer = FORGE.signer(FORGE.root, subject="lenient", extra=extra)
    assert judged(FORGE.svid(ROUTER, by=[signer], extra=extra), FORGE.root).id


_SIGNERS = st.fixed_dictionaries(
    {},
    optional={
        "usages": st.sampled_from([None, ("crl_sign",), ("key_cert_sign",)]),
        "life": st.sampled_from([-1, 7200]),
        "path_length": st.sampled_from([0, 1]),
        "uris": st.just(("spiffe://cluster.local",)),
        "extra": st.sampled_from(
            [
                ((x509.NameConstraints([x509.DNSName("a.test")], None), True),),
                ((x509.NameConstraints(None, [x509.DNSName("a.test")]), True),),
            ]
        ),
    },
)


@pytest.mark.slow
@given(
    faults=st.lists(_SIGNERS, max_size=3),
    dns=st.sampled_from([(), ("a.test",), ("b.test",)]),
    hidden=st.integers(0, 3),
    stranger=st.booleans(),
)
def test_the_two_verifiers_agree(
    faults: list[dict[str, Any]],
    dns: tuple[str, ...],
    hidden: int,
    stranger: bool,  # noqa: FBT001
) -> None:
    """The fast one admits less: plain paths. Made lenient, it admits the same."""
    by: list[Signer] = []
    for number, fault in enumerate(faults):
        issuer = by[0] if by else FORGE.root
        by.insert(0, FORGE.signer(issuer, subject=f"s{number}", **fault))
    certificates = FORGE.svid(ROUTER, by=by, dns=dns).certificates
    chain = certificates[: max(1, len(certificates) - hidden)]
    root = Forge("cluster.local", FORGE.now).root if stranger else FORGE.root
    store, roots = Store([root.certificate]), [X509.from_cryptography(root.certificate)]
    rules = _plain_rules([root.certificate])
    plain = admits(lambda: _plain_path(rules, chain, FORGE.now))
    lenient = admits(lambda: lenient_path(store, chain))
    other = admits(lambda: _any_path(roots, chain, FORGE.now))
    event(f"{plain=} {other=}")
    assert other == lenient
    assert other or not plain


def admits(path: Callable[[], object]) -> bool:
    try:
        path()
    except (VerificationError, RuleBrokenError):
        return False
    return True


def lenient_path(store: Store, chain: Sequence[x509.Certificate]) -> object:
    everything, either = ExtensionPolicy.permit_all(), Criticality.AGNOSTIC
    signer = everything.require_present(x509.BasicConstraints, either, None)
    signer = signer.may_be_present(x509.KeyUsage, either, may_sign)
    leaf = everything.require_present(x509.SubjectAlternativeName, either, None)
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(FORGE.now)
        .extension_policies(ca_policy=signer, ee_policy=leaf)
        .build_client_verifier()
    )
    return verifier.verify(chain[0], list(chain[1:]))


def may_sign(_policy: object, _of: object, usage: x509.KeyUsage | None) -> None:
    """Do what the lenient policy leaves out."""
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("it may not sign")
