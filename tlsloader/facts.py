"""What a certificate says, for people to read; nothing of it is judged here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from datetime import datetime, timedelta

__all__ = ["Facts"]

_SHOWN: Final = 200
_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Facts:
    """The names, dates and kinds of one certificate.

    All texts are printable and short, whatever its author has put there. ``serial``
    and ``sha256`` (of the DER) are hex; ``begin`` and ``end`` are in UTC.
    """

    uris: tuple[str, ...]
    dns: tuple[str, ...]
    subject: str
    serial: str
    sha256: str
    key: str
    signature: str
    begin: datetime
    end: datetime

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Return what the first certificate in *data* says, PEM or DER.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            if data.startswith(b"-----BEGIN"):
                return cls.of(x509.load_pem_x509_certificate(data))
            return cls.of(x509.load_der_x509_certificate(data))
        except _UNREADABLE as error:
            raise ValueError(f"the certificate cannot be read ({error})") from error

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """Return what *certificate* says."""
        names = _names(certificate)
        return cls(
            uris=_printable(names.get_values_for_type(x509.UniformResourceIdentifier)),
            dns=_printable(names.get_values_for_type(x509.DNSName)),
            subject=_printable([certificate.subject.rfc4514_string()])[0],
            serial=f"{certificate.serial_number:x}",
            sha256=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
            key=_kind(certificate),
            signature=_signature(certificate),
            begin=certificate.not_valid_before_utc,
            end=certificate.not_valid_after_utc,
        )

    def share_left(self, now: datetime, end: datetime | None = None) -> float:
        """Return how much of its life is left at *now*, from 1 to 0 or below.

        *end* is when its life is over, if that is earlier than its own date.
        """
        life: timedelta = self.end - self.begin
        return ((end or self.end) - now) / life if life else 0.0


def _names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _kind(certificate: x509.Certificate) -> str:
    match certificate.public_key():
        case ec.EllipticCurvePublicKey(curve=curve):
            return f"ECDSA {curve.name}"
        case rsa.RSAPublicKey(key_size=bits):
            return f"RSA {bits}"
        case other:
            return type(other).__name__.removesuffix("PublicKey")


def _signature(certificate: x509.Certificate) -> str:
    digest = certificate.signature_hash_algorithm
    return digest.name if digest else "Ed25519"


def _printable(texts: list[str]) -> tuple[str, ...]:
    """Return *texts* so that a terminal shows them and obeys none of them."""
    return tuple(
        "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode()
            for each in text[:_SHOWN]
        )
        for text in texts
    )
