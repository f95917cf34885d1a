"""Every way in which a peer's certificate can be wrong, and the reason it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.forge import Forge, Signer, Svid

__all__ = ["BOTH", "BadCase", "bad_peers"]

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True)
class BadCase:
    """One thing a peer may show that must be refused with *reason*."""

    title: str
    reason: str
    chain: Svid


def bad_peers(forge: Forge, identity: str) -> Iterator[BadCase]:
    """Yield every bad certificate of *forge* that claims to be *identity*."""
    for title, reason, faults in _leaf_faults(identity, forge.trust_domain):
        yield BadCase(title, reason, forge.svid(identity, **faults))
    for title, reason, by in _signer_faults(forge):
        yield BadCase(title, reason, forge.svid(identity, by=by))
    for title, extra, dns in _constraints(forge.trust_domain):
        by = [forge.signer(forge.root, subject="narrow", extra=((extra, True),))]
        chain = forge.svid(identity, by=by, dns=dns)
        yield BadCase(title, "name_constraints", chain)
    yield from _stolen_trust(forge, identity)


def _leaf_faults(
    identity: str, trust_domain: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (title, reason, faults of the `Leaf`)."""
    yield "expired", "expired", {"age": 7200, "life": -1}
    yield "not yet valid", "not_yet_valid", {"age": -86400, "life": 90000}
    yield from _names(identity, trust_domain)
    yield from _uses()
    yield (
        "an unknown critical extension",
        "unknown_critical_extension",
        {"extra": ((_UNKNOWN, True),)},
    )
    weak = {"key": rsa.generate_private_key(65537, 1024)}  # noqa: S505
    yield "a short RSA key", "unsupported_key", weak
    yield "a weak signature", "weak_signature", {"digest": hashes.SHA224()}


def _names(
    identity: str, trust_domain: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "two URIs", "several_uris", {"uris": (identity, identity + "2")}
    yield "the same URI twice", "several_uris", {"uris": (identity, identity)}
    yield "a web URI too", "several_uris", {"uris": (identity, "https://evil.test/")}
    yield "no names at all", "no_uri", {"uris": (), "subject": "nobody"}
    as_name = {"uris": (), "common_name": identity}
    yield "the identity as common name", "no_uri", as_name
    yield "DNS names only", "no_uri", {"uris": (), "dns": ("localhost",)}
    yield "the identity as DNS name", "no_uri", {"uris": (), "dns": (identity,)}
    for title, uri in (
        ("a web URI", "https://evil.test/"),
        ("an upper-case scheme", identity.replace("spiffe", "SPIFFE", 1)),
        ("an upper-case domain", identity.replace(trust_domain, trust_domain.upper())),
        ("a port", identity.replace(trust_domain, f"{trust_domain}:443", 1)),
        ("a user", identity.replace(trust_domain, f"x@{trust_domain}", 1)),
        ("a dotted path", identity + "/../x"),
        ("an escaped path", identity + "%61"),
        ("a query", identity + "?q"),
        ("a fragment", identity + "#f"),
        ("a trailing slash", identity + "/"),
        ("a trailing newline", identity + "\n"),
        ("a trailing NUL", identity + "\0"),
    ):
        yield title, "not_spiffe", {"uris": (uri,)}
    yield "a trust domain only", "no_path", {"uris": (f"spiffe://{trust_domain}",)}
    yield "SAN not critical", "san_not_critical", {"san_critical": False}


def _uses() -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "a CA as leaf", "ca_leaf", {"ca": True}
    signing = ("digital_signature", "key_cert_sign")
    yield "a leaf that may sign certificates", "cert_sign_leaf", {"usages": signing}
    listing = ("digital_signature", "crl_sign")
    yield "a leaf that may sign revocations", "crl_sign_leaf", {"usages": listing}
    yield "no key usage", "no_key_usage", {"usages": None}
    yield "no digitalSignature", "no_digital_signature", {"usages": ("key_agreement",)}
    optional = {"usage_critical": False}
    yield "key usage not critical", "key_usage_not_critical", optional
    server, client = BOTH
    for title, purpose in (
        ("for servers only", server),
        ("for clients only", client),
        ("for signing code", ExtendedKeyUsageOID.CODE_SIGNING),
        ("for any purpose", ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE),
    ):
        yield title, "wrong_purpose", {"purposes": (purpose,)}


def _signer_faults(forge: Forge) -> Iterator[tuple[str, str, list[Signer]]]:
    """Yield (title, reason, the intermediates that sign)."""
    domain = f"spiffe://{forge.trust_domain}"
    cases: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("that is no CA", "signer_not_ca", {"ca": False}),
        ("without keyCertSign", "signer_no_cert_sign", {"usages": ("crl_sign",)}),
        ("without key usage", "signer_no_cert_sign", {"usages": None}),
        (
            "whose key usage is not critical",
            "signer_key_usage_not_critical",
            {"usage_critical": False},
        ),
        (
            "of another trust domain",
            "signer_other_domain",
            {"uris": ("spiffe://evil.test",)},
        ),
        ("with a path", "signer_has_path", {"uris": (f"{domain}/ca",)}),
        ("with a web URI", "signer_not_spiffe", {"uris": ("https://evil.test",)}),
        (
            "with two identities",
            "signer_several_uris",
            {"uris": (domain, "spiffe://evil.test")},
        ),
        ("that has expired", "signer_expired", {"life": -1}),
        ("that is not valid yet", "signer_not_yet_valid", {"age": -7200}),
        (
            "with a short RSA key",
            "signer_unsupported_key",
            {"key": rsa.generate_private_key(65537, 1024)},  # noqa: S505
        ),
        (
            "with a key of a strange curve",
            "signer_unsupported_key",
            {"key": ec.generate_private_key(ec.SECP256K1())},
        ),
        (
            "with an unknown critical extension",
            "unknown_critical_extension",
            {"extra": ((_UNKNOWN, True),)},
        ),
        (
            "that demands a policy",
            "certificate_policy",
            {"extra": ((x509.PolicyConstraints(0, None), True),)},
        ),
    )
    for title, reason, faults in cases:
        by = forge.signer(forge.root, subject="middle", **faults)
        yield f"an intermediate {title}", reason, [by]
    good = forge.signer(forge.root, subject="good")
    yield "too many intermediates", "chain_too_long", [good] * 9
    short = forge.signer(forge.root, subject="short", path_length=0)
    below = forge.signer(short, subject="below")
    yield "an intermediate too deep", "path_length_exceeded", [below, short]


def _constraints(
    trust_domain: str,
) -> Iterator[tuple[str, x509.NameConstraints, tuple[str, ...]]]:
    """Yield (title, what the CA is constrained to, DNS names of the leaf)."""
    for title, uri in (
        ("a CA for another trust domain", "evil.test"),
        ("a CA for domains below ours", f".{trust_domain}"),
        ("a CA whose constraint is no host", f"spiffe://{trust_domain}"),
    ):
        allowed = [x509.UniformResourceIdentifier(uri)]
        yield title, x509.NameConstraints(allowed, None), ()
    ours = [x509.UniformResourceIdentifier(trust_domain)]
    yield "a CA for all but ours", x509.NameConstraints(None, ours), ()
    names = x509.NameConstraints([x509.DNSName("router.test")], None)
    yield "a CA for another DNS name", names, ("evil.test",)


def _stolen_trust(forge: Forge, identity: str) -> Iterator[BadCase]:
    """Yield chains of those who have no right to speak for the trust domain."""
    stranger = type(forge)(forge.trust_domain, forge.now)
    chain = stranger.svid(identity)
    yield BadCase("another CA of the same name", "untrusted_chain", chain)
    orphan = forge.signer(forge.impostor(forge.root), subject="orphan")
    chain = forge.svid(identity, by=[orphan])
    yield BadCase("an intermediate the root did not sign", "bad_signature", chain)
    chain = forge.svid(identity, by=[forge.workload(f"{identity}-2")])
    yield BadCase("a workload vouches for another", "signer_not_ca", chain)
    other = type(forge)("evil.test", forge.now)
    chain = other.svid(identity)
    yield BadCase("another domain's CA vouches for it", "untrusted_chain", chain)
    chain = other.svid(identity.replace(forge.trust_domain, "evil.test", 1))
    yield BadCase("an identity of another trust domain", "unknown_trust_domain", chain)


_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")
