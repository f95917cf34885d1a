"""Certificates for tests: good ones, and every bad one that a peer may show.

Nothing here is careful: what the `authority` room never makes is made here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clock import SYSTEM
from tlsloader import FixedSource, Material, Paths, TrustBundle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["BadCase", "Forge", "Leaf", "Signer", "Svid", "usage"]

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def usage(*bits: str) -> x509.KeyUsage:
    """Return the key usage with exactly *bits* set."""
    return x509.KeyUsage(**{bit: bit in bits for bit in _BITS})


def name(text: str) -> x509.Name:
    """Return the subject ``O=text``; empty text is the empty subject."""
    kind = NameOID.ORGANIZATION_NAME
    return x509.Name([x509.NameAttribute(kind, text)] if text else [])


@dataclass(frozen=True)
class Leaf:
    """All that can be said in a leaf; the defaults make a correct X509-SVID.

    ``age`` and ``life`` are the seconds from its first moment to now and from now
    to its last; ``usages=None`` and ``purposes=None`` leave the extension out.
    """

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    subject: str = ""
    age: float = 60
    life: float = 3600
    ca: bool = False
    usages: tuple[str, ...] | None = ("digital_signature",)
    usage_critical: bool = True
    purposes: tuple[x509.ObjectIdentifier, ...] | None = BOTH
    san_critical: bool | None = None  # None: as RFC 5280 wants it
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    key: _Key | None = None


@dataclass(frozen=True)
class Svid:
    """A private key and the chain it speaks for, PEM and DER."""

    key: bytes = field(repr=False)
    certificates: tuple[x509.Certificate, ...]

    @property
    def chain(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.certificates)

    @property
    def ders(self) -> tuple[bytes, ...]:
        return tuple(each.public_bytes(Encoding.DER) for each in self.certificates)

    @property
    def leaf_sha256(self) -> str:
        return hashlib.sha256(self.ders[0]).hexdigest()


@dataclass(frozen=True)
class BadCase:
    """One thing a peer may show that must be refused with *reason*."""

    title: str
    reason: str
    chain: Svid


class Signer:
    """A key with its certificate that signs whatever it is asked to."""

    def __init__(self, key: _Key, certificate: x509.Certificate) -> None:
        self.key = key
        self.certificate = certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


class Forge:
    """Makes certificates of *trust_domain* as if it were *now* (default: it is)."""

    def __init__(
        self, trust_domain: str = "cluster.local", now: datetime | None = None
    ) -> None:
        self.trust_domain = trust_domain
        self.now = now or SYSTEM.now()
        self.root = self.signer()

    @property
    def bundle(self) -> bytes:
        return self.root.pem

    @property
    def trust(self) -> TrustBundle:
        return TrustBundle.parse(self.trust_domain, self.bundle)

    def signer(  # noqa: PLR0913 -- as many as a CA can have faults
        self,
        by: Signer | None = None,
        *,
        subject: str | None = None,
        age: float = 3600,
        life: float = 86400,
        ca: bool = True,
        usages: tuple[str, ...] | None = ("key_cert_sign", "crl_sign"),
        uris: tuple[str, ...] = (),
        extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        path_length: int | None = None,
        key: _Key | None = None,
    ) -> Signer:
        """Return a CA, signed *by* another or by itself."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        mine = name(f"{self.trust_domain} CA" if subject is None else subject)
        issuer = by.certificate.subject if by else mine
        builder = self._builder(mine, issuer, key, age, life).add_extension(
            x509.BasicConstraints(ca=ca, path_length=path_length), critical=True
        )
        if usages is not None:
            builder = builder.add_extension(usage(*usages), critical=True)
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=False
            )
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical=critical)
        return Signer(key, _signed(builder, by.key if by else key))

    def svid(self, identity: str, *, by: Sequence[Signer] = (), **faults: Any) -> Svid:
        """Return an SVID of *identity*, e.g. ``svid(ROUTER, life=-1)``.

        Args:
            identity: its only URI, unless ``uris`` is among the faults.
            by: the intermediates that signed it and are shown with it, the nearest
                first; without any, the root signs and is not shown.
            faults: fields of `Leaf` that differ from a correct one.
        """
        leaf = replace(Leaf(uris=(identity,)), **faults)
        key = leaf.key or ec.generate_private_key(ec.SECP256R1())
        signer = by[0] if by else self.root
        signed = _signed(self._leaf(leaf, key, signer), signer.key)
        shown = tuple(each.certificate for each in by)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Svid(pem, (signed, *shown))

    def material(
        self,
        identity: str,
        *,
        foreign: Sequence[Forge] = (),
        generation: int = 1,
        **faults: Any,
    ) -> Material:
        """Return checked material of *identity* that also trusts *foreign* domains."""
        svid = self.svid(identity, **faults)
        return Material.parse(
            key=svid.key,
            chain=svid.chain,
            bundle=self.bundle,
            foreign={each.trust_domain: each.bundle for each in foreign},
            now=self.now,
            generation=generation,
        )

    def source(self, identity: str, *, foreign: Sequence[Forge] = ()) -> FixedSource:
        """Return a fixed source of `material`."""
        return FixedSource(self.material(identity, foreign=foreign))

    def write(self, folder: Path, identity: str, **faults: Any) -> Paths:
        """Write the three files of *identity* into *folder* and return their paths."""
        return self.put(folder, self.svid(identity, **faults))

    def put(self, folder: Path, svid: Svid) -> Paths:
        """Write *svid* and our bundle into *folder*, each by one rename."""
        paths = Paths(folder / "key.pem", folder / "svid.pem", folder / "bundle.pem")
        folder.mkdir(parents=True, exist_ok=True)
        contents = (
            (paths.key, svid.key),
            (paths.chain, svid.chain),
            (paths.bundle, self.bundle),
        )
        for path, data in contents:
            new = path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_bytes(data)
            new.replace(path)
        return paths

    def bad_cases(self, identity: str) -> Iterator[BadCase]:
        """Yield every bad certificate that claims to be *identity*.

        *identity* is one that the door would admit, and the door's bundles hold
        this forge's root only: each is refused for its own reason and no other.
        """
        for title, reason, faults in _leaf_faults(identity, self.trust_domain):
            yield BadCase(title, reason, self.svid(identity, **faults))
        for title, reason, by in self._chain_faults():
            yield BadCase(title, reason, self.svid(identity, by=by))
        stranger = Forge(self.trust_domain, self.now)
        yield BadCase(
            "another CA of the same name", "untrusted_chain", stranger.svid(identity)
        )
        other = Forge("evil.test", self.now)
        yield BadCase(
            "another domain's CA vouches for it",
            "untrusted_chain",
            other.svid(identity),
        )
        yield BadCase(
            "an identity of another trust domain",
            "unknown_trust_domain",
            other.svid(identity.replace(self.trust_domain, "evil.test", 1)),
        )

    def _chain_faults(self) -> Iterator[tuple[str, str, list[Signer]]]:
        by = self.root
        good = self.signer(by, subject="good")
        domain = f"spiffe://{self.trust_domain}"
        yield (
            "an intermediate that is no CA",
            "signer_not_ca",
            [self.signer(by, subject="leafy", ca=False)],
        )
        yield (
            "an intermediate without keyCertSign",
            "signer_no_cert_sign",
            [self.signer(by, subject="mute", usages=("crl_sign",))],
        )
        yield (
            "an intermediate without key usage",
            "signer_no_cert_sign",
            [self.signer(by, subject="bare", usages=None)],
        )
        yield (
            "an intermediate of another trust domain",
            "signer_other_domain",
            [self.signer(by, subject="foreign", uris=("spiffe://evil.test",))],
        )
        yield (
            "an intermediate with a path",
            "signer_other_domain",
            [self.signer(by, subject="workload", uris=(f"{domain}/ca",))],
        )
        yield (
            "an expired intermediate",
            "untrusted_chain",
            [self.signer(by, subject="old", life=-1)],
        )
        yield (
            "an intermediate for other names",
            "untrusted_chain",
            [self.signer(by, subject="narrow", extra=_ONLY_OTHER_URIS)],
        )
        orphan = self.signer(Signer(good.key, self.root.certificate), subject="orphan")
        yield "an intermediate that the root did not sign", "untrusted_chain", [orphan]
        yield "too many intermediates", "chain_too_long", [good] * 9

    def _leaf(self, leaf: Leaf, key: _Key, signer: Signer) -> x509.CertificateBuilder:
        issuer = signer.certificate.subject
        builder = self._builder(name(leaf.subject), issuer, key, leaf.age, leaf.life)
        names: list[x509.GeneralName] = [
            *map(x509.UniformResourceIdentifier, leaf.uris),
            *map(x509.DNSName, leaf.dns),
            *(x509.IPAddress(ip_address(ip)) for ip in leaf.ips),
        ]
        critical = leaf.san_critical
        extensions = [
            (x509.BasicConstraints(ca=leaf.ca, path_length=None), True),
            (usage(*leaf.usages or ()), leaf.usage_critical),
            (x509.ExtendedKeyUsage(leaf.purposes or BOTH), False),
            (
                x509.SubjectAlternativeName(names),
                not leaf.subject if critical is None else critical,
            ),
            *leaf.extra,
        ]
        left_out = {
            x509.KeyUsage: leaf.usages is None,
            x509.ExtendedKeyUsage: leaf.purposes is None,
            x509.SubjectAlternativeName: not names,
        }
        for extension, is_critical in extensions:
            if not left_out.get(type(extension)):
                builder = builder.add_extension(extension, critical=is_critical)
        return builder

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: _Key,
        age: float,
        life: float,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(seconds=age))
            .not_valid_after(self.now + timedelta(seconds=life))
        )


def _signed(builder: x509.CertificateBuilder, key: _Key) -> x509.Certificate:
    edwards = isinstance(key, ed25519.Ed25519PrivateKey)
    return builder.sign(key, None if edwards else hashes.SHA256())


def _leaf_faults(
    identity: str, trust_domain: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (title, reason, faults of the `Leaf`)."""
    server, client = BOTH
    yield "expired", "expired", {"age": 7200, "life": -1}
    yield "not yet valid", "not_yet_valid", {"age": -86400, "life": 90000}
    yield "a CA as leaf", "ca_leaf", {"ca": True}
    signing = ("digital_signature", "key_cert_sign")
    yield "a leaf that may sign certificates", "cert_sign_leaf", {"usages": signing}
    listing = ("digital_signature", "crl_sign")
    yield "a leaf that may sign revocations", "crl_sign_leaf", {"usages": listing}
    yield "no key usage", "no_key_usage", {"usages": None}
    yield "no digitalSignature", "no_digital_signature", {"usages": ("key_agreement",)}
    optional = {"usage_critical": False}
    yield "key usage not critical", "key_usage_not_critical", optional
    yield "two URIs", "several_uris", {"uris": (identity, identity + "2")}
    yield "the same URI twice", "several_uris", {"uris": (identity, identity)}
    yield "a web URI too", "several_uris", {"uris": (identity, "https://evil.test/")}
    yield "no names at all", "no_uri", {"uris": (), "subject": identity}
    yield "DNS names only", "no_uri", {"uris": (), "dns": ("localhost",)}
    yield "a web URI", "not_spiffe", {"uris": ("https://evil.test/",)}
    shouted = identity.replace("spiffe", "SPIFFE", 1)
    yield "an upper-case scheme", "not_spiffe", {"uris": (shouted,)}
    yield "a dotted path", "not_spiffe", {"uris": (identity + "/../x",)}
    yield "an escaped path", "not_spiffe", {"uris": (identity + "%61",)}
    yield "a query", "not_spiffe", {"uris": (identity + "?q",)}
    yield "a trailing newline", "not_spiffe", {"uris": (identity + "\n",)}
    yield "a trust domain only", "no_path", {"uris": (f"spiffe://{trust_domain}",)}
    yield "SAN not critical", "san_not_critical", {"san_critical": False}
    yield "for servers only", "wrong_purpose", {"purposes": (server,)}
    yield "for clients only", "wrong_purpose", {"purposes": (client,)}
    code = (ExtendedKeyUsageOID.CODE_SIGNING,)
    yield "for signing code", "wrong_purpose", {"purposes": code}
    yield "an unknown critical extension", "untrusted_chain", {"extra": _UNKNOWN}
    odd = {"key": ed25519.Ed25519PrivateKey.generate()}
    yield "an Ed25519 key", "unsupported_key", odd
    weak = {"key": rsa.generate_private_key(65537, 1024)}  # noqa: S505
    yield "a short RSA key", "unsupported_key", weak


_UNKNOWN = (
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0"), True),
)
_ONLY_OTHER_URIS = (
    (
        x509.NameConstraints([x509.UniformResourceIdentifier("other.test")], None),
        True,
    ),
)
