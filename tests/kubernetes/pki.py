"""Certificates for one throw-away Kubernetes API."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clock import SYSTEM

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Pki"]

_BOTH = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


class Pki:
    """A CA in memory, and in *folder* what it certifies: ``NAME.crt``, ``NAME.key``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("test-ca")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key.public_key())
        root = builder.add_extension(constraints, critical=True)
        self._write("ca.crt", self._sign(root))

    def certify(self, name: str, common: str, group: str | None = None) -> None:
        """Write a key and a certificate for loopback, as server and as client."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        built = (
            self._builder(_name(common, group), key.public_key())
            .add_extension(x509.ExtendedKeyUsage(_BOTH), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        self._write(f"{name}.crt", self._sign(built))
        self._write(f"{name}.key", _private(key))

    def key_pair(self, name: str) -> None:
        """Write a bare key pair, to sign and to check tokens with."""
        key = ec.generate_private_key(ec.SECP256R1())
        form = PublicFormat.SubjectPublicKeyInfo
        self._write(f"{name}.key", _private(key))
        self._write(f"{name}.pub", key.public_key().public_bytes(Encoding.PEM, form))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = SYSTEM.now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)


def _name(common: str, group: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if group:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    return x509.Name(parts)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
