"""The parts that all certificates of an authority are made of.

Source: RFC 5280, section 4.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SigningKey", "builder", "issuer_of", "usage", "whole"]

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_BACKDATED = timedelta(seconds=30)  # for verifiers whose clock is a little behind
_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    """Return a certificate of *key* to which extensions are to be added."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def usage(*allowed: str) -> x509.KeyUsage:
    """Return the key usage in which only *allowed* is set."""
    return x509.KeyUsage(**{**_NO_USAGE, **dict.fromkeys(allowed, True)})


def issuer_of(signer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return by what a leaf names the key of *signer*.

    Verifiers look for a signer that calls its key just so, whatever way its maker
    had of naming keys. Source: RFC 5280, section 4.2.1.1.
    """
    try:
        own = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = signer.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def whole(end: datetime) -> datetime:
    """Round up: certificates know no fractions, and 2 s must not become 1 s."""
    return (end + timedelta(seconds=1, microseconds=-1)).replace(microsecond=0)
