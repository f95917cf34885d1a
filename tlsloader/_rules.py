"""The rules of X509-SVID over certificates, the same for our own and a peer's.

Source: X509-SVID standard, sections 2 to 5; RFC 5280, sections 4.2 and 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from tlsloader._errors import InvalidSpiffeIDError, RuleBrokenError
from tlsloader._spiffe import SpiffeID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

__all__ = [
    "MAX_CHAIN",
    "check_dates",
    "check_leaf",
    "check_signer",
    "leaf_identity",
    "verified_chain",
]

MAX_CHAIN = 8
_MIN_RSA_BITS = 2048
_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)

# cryptography's verifier judges signatures, dates, name constraints, CA flags and
# unknown critical extensions; what SPIFFE adds, and all about the leaf, is above it.
_CA_POLICY = ExtensionPolicy.permit_all().require_present(
    x509.BasicConstraints, Criticality.AGNOSTIC, None
)
_LEAF_POLICY = ExtensionPolicy.permit_all().require_present(
    x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
)


def leaf_identity(leaf: x509.Certificate) -> SpiffeID:
    """Return the identity that *leaf* names in its only URI.

    Raises:
        RuleBrokenError: it names none, several, or a whole trust domain.

    Source: X509-SVID standard, sections 2 and 3.1.
    """
    uris = _uris(_extensions(leaf))
    if not uris:
        raise RuleBrokenError("no_uri", "it names no SPIFFE ID (no URI in its SAN)")
    if len(uris) > 1:
        raise RuleBrokenError("several_uris", f"it holds {len(uris)} URIs, not one")
    try:
        identity = SpiffeID.parse(uris[0])
    except InvalidSpiffeIDError as error:
        raise RuleBrokenError("not_spiffe", str(error)) from error
    if not identity.path:
        raise RuleBrokenError("no_path", f"{identity} is a trust domain, no workload")
    return identity


def check_leaf(leaf: x509.Certificate) -> None:
    """Refuse a *leaf* that may do more or less than prove one workload.

    Source: X509-SVID standard, sections 4.1, 4.3 and 4.4; RFC 5280, section 4.2.1.6.
    """
    _check_signature_form(leaf)
    extensions = _extensions(leaf)
    names = _extension(extensions, x509.SubjectAlternativeName)
    if names and not names.critical and not leaf.subject.rdns:
        text = "its subject is empty, but its SAN is not critical"
        raise RuleBrokenError("san_not_critical", text)
    _check_leaf_use(extensions)
    _check_purpose(extensions)
    _check_key(leaf)


def check_dates(leaf: x509.Certificate, now: datetime) -> None:
    """Refuse a *leaf* outside its dates. Source: RFC 5280, section 4.1.2.5."""
    if now < leaf.not_valid_before_utc:
        start = leaf.not_valid_before_utc
        raise RuleBrokenError("not_yet_valid", f"it is not valid before {start:%FT%TZ}")
    if now > leaf.not_valid_after_utc:
        end = leaf.not_valid_after_utc
        raise RuleBrokenError("expired", f"it expired at {end:%FT%TZ}")


def check_signer(
    signer: x509.Certificate, trust_domain: str, *, root: bool = False
) -> None:
    """Refuse a *signer* that may not sign identities of *trust_domain*.

    A root is trusted because it is in the bundle, so it may lack the key usage.

    Source: X509-SVID standard, sections 3.2, 4.1 and 4.3.
    """
    _check_signature_form(signer)
    extensions = _extensions(signer)
    basic = _extension(extensions, x509.BasicConstraints)
    if basic is None or not basic.value.ca:
        raise RuleBrokenError("signer_not_ca", f"{_subject(signer)} is not a CA")
    usage = _extension(extensions, x509.KeyUsage)
    if usage.value.key_cert_sign is False if usage else not root:
        text = f"{_subject(signer)} may not sign certificates (keyCertSign is not set)"
        raise RuleBrokenError("signer_no_cert_sign", text)
    for uri in _uris(extensions):
        if uri != f"spiffe://{trust_domain}":
            text = (
                f"{_subject(signer)} signs for {uri}, not for spiffe://{trust_domain}"
            )
            raise RuleBrokenError("signer_other_domain", text)


def verified_chain(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    store: Store | None,
    now: datetime,
) -> list[x509.Certificate]:
    """Return a chain from *leaf* to a root of *store*, both included.

    Raises:
        RuleBrokenError: there is none at *now*. An empty store trusts nobody.

    Source: RFC 5280, section 6.
    """
    if store is None:
        raise RuleBrokenError("untrusted_chain", "its trust bundle is empty")
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(now)
        .max_chain_depth(MAX_CHAIN)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
        .build_client_verifier()
    )
    try:
        return verifier.verify(leaf, list(intermediates)).chain
    except VerificationError as error:
        text = f"it does not chain to its trust bundle ({error})"
        raise RuleBrokenError("untrusted_chain", text) from error


def _check_signature_form(certificate: x509.Certificate) -> None:
    """Refuse a signature that says it ends within a byte.

    The library does not look at that count, which is outside what is signed: one
    certificate would have several forms. Source: RFC 5280, section 4.1.1.3.
    """
    if not certificate.public_bytes(Encoding.DER).endswith(
        b"\0" + certificate.signature
    ):
        text = "its signature is not a whole number of bytes"
        raise RuleBrokenError("malformed_certificate", text)


def _check_leaf_use(extensions: x509.Extensions) -> None:
    basic = _extension(extensions, x509.BasicConstraints)
    if basic and basic.value.ca:
        raise RuleBrokenError("ca_leaf", "its leaf is a CA")
    usage = _extension(extensions, x509.KeyUsage)
    if usage is None:
        raise RuleBrokenError("no_key_usage", "its leaf has no key usage")
    if usage.value.key_cert_sign:
        raise RuleBrokenError("cert_sign_leaf", "its leaf may sign certificates")
    if usage.value.crl_sign:
        raise RuleBrokenError("crl_sign_leaf", "its leaf may sign revocation lists")
    if not usage.critical:
        raise RuleBrokenError("key_usage_not_critical", "its key usage is not critical")
    if not usage.value.digital_signature:
        raise RuleBrokenError("no_digital_signature", "its key may not sign handshakes")


def _check_purpose(extensions: x509.Extensions) -> None:
    purposes = _extension(extensions, x509.ExtendedKeyUsage)
    if purposes and not all(each in purposes.value for each in _PURPOSES):
        text = "its extended key usage is not for both servers and clients"
        raise RuleBrokenError("wrong_purpose", text)


def _check_key(leaf: x509.Certificate) -> None:
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RuleBrokenError("unsupported_key", f"its key is odd ({error})") from error
    if isinstance(key, ec.EllipticCurvePublicKey):
        return
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return
    text = "its key is neither ECDSA (P-256, P-384, P-521) nor RSA of 2048 bits or more"
    raise RuleBrokenError("unsupported_key", text)


def _extensions(certificate: x509.Certificate) -> x509.Extensions:
    try:
        return certificate.extensions
    except (
        ValueError,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        text = f"its extensions cannot be read ({error})"
        raise RuleBrokenError("malformed_certificate", text) from error


_T = TypeVar("_T", bound=x509.ExtensionType)


def _extension(
    extensions: x509.Extensions, kind: type[_T]
) -> x509.Extension[_T] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _uris(extensions: x509.Extensions) -> list[str]:
    names = _extension(extensions, x509.SubjectAlternativeName)
    kind = x509.UniformResourceIdentifier
    return names.value.get_values_for_type(kind) if names else []


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a subject"
