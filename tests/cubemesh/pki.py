"""Certificates for a Router and a user, made in memory."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])


@dataclass(frozen=True)
class Pair:
    """One certificate and its key, PEM."""

    chain: bytes
    key: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Put both into *folder*, each at once; return where."""
        folder.mkdir(exist_ok=True)
        for name, content in (("svid.pem", self.chain), ("key.pem", self.key)):
            draft = folder / f"{name}.new"
            draft.write_bytes(content)
            draft.replace(folder / name)
        return folder / "svid.pem", folder / "key.pem"


class CA:
    """Signs whatever a test asks for."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(self._key, _NAME, dt.timedelta(days=1))
        self._certificate = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).sign(self._key, hashes.SHA256())
        self.bundle = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        uri: str,
        *,
        dns: str | None = None,
        life: dt.timedelta = dt.timedelta(hours=1),
    ) -> Pair:
        """Return a fresh certificate for *uri*."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
        if dns:
            names.append(x509.DNSName(dns))
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = (
            _builder(key, x509.Name([]), life)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def _builder(
    key: ec.EllipticCurvePrivateKey, subject: x509.Name, life: dt.timedelta
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - TLS compares with it
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(seconds=10))
        .not_valid_after(now + life)
    )
