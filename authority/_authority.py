"""A certificate authority of one trust domain that makes correct X509-SVIDs only.

Source: X509-SVID standard, sections 2 to 4; RFC 5280, section 4.2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from authority._errors import NotIssuableError
from authority._store import load, save
from authority._x509 import SigningKey, builder, issuer_of, usage, whole
from tlsloader import parse_trust_domain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from tlsloader import SpiffeID

__all__ = ["Authority", "Issued"]

_CA_LIFE = timedelta(days=365)
_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class Issued:
    """One new identity: key (PKCS#8 PEM), chain (PEM, leaf first) and its end.

    ``leaf_sha256`` is the hex digest of the leaf's DER; ``not_after`` is in UTC.
    """

    identity: SpiffeID
    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    not_after: datetime
    leaf_sha256: str


class Authority:
    """A key that signs leaves of one trust domain, and leaves only.

    ``intermediates`` are shown with each leaf, the signing certificate first, and
    lead to one of the ``roots``; there are none where the root itself signs.
    """

    def __init__(
        self,
        trust_domain: str,
        key: SigningKey,
        certificate: x509.Certificate,
        *,
        intermediates: Sequence[x509.Certificate] = (),
        roots: Sequence[x509.Certificate] = (),
    ) -> None:
        self.trust_domain = trust_domain
        self.certificate = certificate
        self.intermediates = tuple(intermediates)
        self.roots = tuple(roots) or (certificate,)
        self._key = key
        self._issuer = issuer_of(certificate)

    @classmethod
    def create(
        cls, trust_domain: str, *, now: datetime, life: timedelta = _CA_LIFE
    ) -> Self:
        """Return a new authority, valid for *life* from *now* on.

        Raises:
            InvalidSpiffeIDError: *trust_domain* is not the name of one.
        """
        domain = parse_trust_domain(trust_domain)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "CubeMesh"),
                x509.NameAttribute(
                    NameOID.SERIAL_NUMBER, f"{x509.random_serial_number():x}"
                ),
            ]
        )
        uri = x509.UniformResourceIdentifier(f"spiffe://{domain}")
        certificate = (
            builder(name, name, key.public_key(), now, whole(now + life))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(domain, key, certificate)

    @classmethod
    def load_or_create(
        cls,
        folder: Path,
        trust_domain: str,
        *,
        now: datetime,
        life: timedelta = _CA_LIFE,
    ) -> Self:
        """Return the authority kept in *folder*, made there if there is none.

        The folder (0700) holds ``ca.key`` (0600) and ``ca.pem``. Callers see to it
        that no two processes do this at once. Blocks on file I/O.

        Raises:
            AuthorityError: what is there cannot be used.
            InvalidSpiffeIDError: *trust_domain* is not the name of one.
        """
        domain = parse_trust_domain(trust_domain)
        if found := load(folder, domain, now=now):
            return cls(domain, *found)
        made = cls.create(domain, now=now, life=life)
        save(folder, made._key, made.certificate)  # noqa: SLF001 -- our own
        return made

    @property
    def bundle(self) -> bytes:
        """The roots as PEM, for all who verify by them."""
        return _pem(self.roots)

    @property
    def not_after(self) -> datetime:
        """When the first of the certificates that leaves stand on ends, in UTC."""
        chain = (self.certificate, *self.intermediates)
        return min(each.not_valid_after_utc for each in chain)

    def issue(
        self,
        identity: SpiffeID,
        *,
        life: timedelta,
        now: datetime,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
    ) -> Issued:
        """Return a new key and an X509-SVID of *identity* for it.

        Args:
            identity: of this trust domain, with a path.
            life: from *now* on, rounded up to whole seconds; cut where the authority
                itself ends.
            now: the wall time, in UTC.
            dns_names: for clients that check a name instead of the identity.
            ip_addresses: likewise.

        Raises:
            NotIssuableError: *identity* is not ours to give, or we have expired.
        """
        self._check(identity, now)
        key = ec.generate_private_key(ec.SECP256R1())
        end = min(whole(now + life), self.not_after)
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(str(identity)),
            *map(x509.DNSName, dns_names),
            *(x509.IPAddress(ip_address(each)) for each in ip_addresses),
        ]
        leaf = (
            builder(x509.Name([]), self.certificate.subject, key.public_key(), now, end)
            .add_extension(
                x509.BasicConstraints(ca=False, path_length=None), critical=True
            )
            .add_extension(usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
            .add_extension(self._issuer, critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            identity=identity,
            key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            chain=_pem((leaf, *self.intermediates)),
            not_after=leaf.not_valid_after_utc,
            leaf_sha256=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
        )

    def _check(self, identity: SpiffeID, now: datetime) -> None:
        if identity.trust_domain != self.trust_domain or not identity.path:
            text = f"{identity} is no workload of the trust domain {self.trust_domain}"
            hint = f"ask for spiffe://{self.trust_domain}/…"
            raise NotIssuableError("not_ours", text, hint=hint)
        if now >= (end := self.not_after):
            text = f"the authority of {self.trust_domain} expired at {end:%FT%TZ}"
            hint = "give a new one: move its folder away, or replace its files"
            raise NotIssuableError("authority_expired", text, hint=hint)


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)
