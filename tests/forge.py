"""Certificates for tests: good ones, and bad ones of every kind.

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
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from clock import SYSTEM
from tests.faults import BOTH, BadCase, bad_peers
from tlsloader import FixedSource, Material, Paths, TrustBundle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["BadCase", "Forge", "Leaf", "Signer", "Svid", "usage"]

_Edwards = ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
_Hash = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | _Edwards
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


def name(organization: str, common_name: str = "") -> x509.Name:
    """Return a subject of the parts that are not empty."""
    parts = (
        (NameOID.ORGANIZATION_NAME, organization),
        (NameOID.COMMON_NAME, common_name),
    )
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in parts if text])


@dataclass(frozen=True)
class Leaf:
    """All that can be said in a leaf; the defaults make a correct X509-SVID.

    ``age`` and ``life`` are the seconds from its first moment to now and from now
    to its last; ``usages=None`` and ``purposes=None`` leave the extension out.
    """

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    others: tuple[x509.GeneralName, ...] = ()
    subject: str = ""
    common_name: str = ""
    age: float = 60
    life: float = 3600
    ca: bool = False
    usages: tuple[str, ...] | None = ("digital_signature",)
    usage_critical: bool = True
    purposes: tuple[x509.ObjectIdentifier, ...] | None = BOTH
    san_critical: bool | None = None  # None: as RFC 5280 wants it
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    key: _Key | None = None
    digest: _Hash | None = None  # None: as its signer does


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
class Way:
    """How a key signs, where its kind leaves a choice."""

    digest: _Hash = field(default_factory=hashes.SHA256)
    padding: padding.PSS | None = None


@dataclass(frozen=True)
class Signer:
    """A key with its certificate that signs whatever it is asked to."""

    key: _Key
    certificate: x509.Certificate
    way: Way = field(default_factory=Way)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


class Forge:
    """Makes certificates of *trust_domain* as if it were *now* (default: it is).

    Without *key_ids* they do not say by which key they were signed.
    """

    def __init__(
        self,
        trust_domain: str = "cluster.local",
        now: datetime | None = None,
        *,
        key_ids: bool = True,
    ) -> None:
        self.trust_domain = trust_domain
        self.now = now or SYSTEM.now()
        self._key_ids = key_ids
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
        path_length: int | None = None,
        usages: tuple[str, ...] | None = ("key_cert_sign", "crl_sign"),
        usage_critical: bool = True,
        uris: tuple[str, ...] = (),
        extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        key: _Key | None = None,
        way: Way | None = None,
    ) -> Signer:
        """Return a CA that signs in some *way*, signed *by* another or by itself."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        mine = name(f"{self.trust_domain} CA" if subject is None else subject)
        builder = self._builder(mine, key, by, age, life).add_extension(
            x509.BasicConstraints(ca=ca, path_length=path_length), critical=True
        )
        if usages is not None:
            builder = builder.add_extension(usage(*usages), critical=usage_critical)
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=False
            )
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical=critical)
        way = way or Way()
        signed = _signed(builder, by.key, by.way) if by else _signed(builder, key, way)
        return Signer(key, signed, way)

    def impostor(self, of: Signer) -> Signer:
        """Return who claims to be *of*, but has another key."""
        return replace(of, key=ec.generate_private_key(ec.SECP256R1()))

    def workload(self, identity: str) -> Signer:
        """Return a correct workload that signs what only a CA may sign."""
        svid = self.svid(identity)
        key: Any = load_pem_private_key(svid.key, None)
        return Signer(key, svid.certificates[0])

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
        way = replace(signer.way, digest=leaf.digest or signer.way.digest)
        signed = _signed(self._leaf(leaf, key, signer), signer.key, way)
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

    def source(self, identity: str, **options: Any) -> FixedSource:
        """Return a fixed source of `material`."""
        return FixedSource(self.material(identity, **options))

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
        yield from bad_peers(self, identity)

    def _leaf(self, leaf: Leaf, key: _Key, signer: Signer) -> x509.CertificateBuilder:
        subject = name(leaf.subject, leaf.common_name)
        builder = self._builder(subject, key, signer, leaf.age, leaf.life)
        names: list[x509.GeneralName] = [
            *map(x509.UniformResourceIdentifier, leaf.uris),
            *map(x509.DNSName, leaf.dns),
            *(x509.IPAddress(ip_address(ip)) for ip in leaf.ips),
            *leaf.others,
        ]
        critical = leaf.san_critical
        extensions = [
            (x509.BasicConstraints(ca=leaf.ca, path_length=None), True),
            (usage(*leaf.usages or ()), leaf.usage_critical),
            (x509.ExtendedKeyUsage(leaf.purposes or BOTH), False),
            (
                x509.SubjectAlternativeName(names),
                not subject.rdns if critical is None else critical,
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
        key: _Key,
        by: Signer | None,
        age: float,
        life: float,
    ) -> x509.CertificateBuilder:
        mine = key.public_key()
        issuer = by.certificate.subject if by else subject
        theirs: Any = by.certificate.public_key() if by else mine
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(mine)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(seconds=age))
            .not_valid_after(self.now + timedelta(seconds=life))
        )
        if not self._key_ids:
            return builder
        own = x509.SubjectKeyIdentifier.from_public_key(mine)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(theirs)
        return builder.add_extension(own, critical=False).add_extension(
            signer, critical=False
        )


def _signed(builder: x509.CertificateBuilder, key: _Key, way: Way) -> x509.Certificate:
    if isinstance(key, _Edwards):
        return builder.sign(key, None)
    return builder.sign(key, way.digest, rsa_padding=way.padding)
