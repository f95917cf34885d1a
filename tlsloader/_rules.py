"""The rules of X509-SVID over certificates, the same for our own and a peer's.

Source: X509-SVID standard, sections 2 to 5; RFC 5280, sections 4.2 and 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from tlsloader._algorithms import key_fault, signature_fault
from tlsloader._errors import InvalidSpiffeIDError, RuleBrokenError
from tlsloader._spiffe import SpiffeID

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "Extensions",
    "check_dates",
    "check_form",
    "check_leaf",
    "check_signer",
    "leaf_identity",
]

_T = TypeVar("_T", bound=x509.ExtensionType)

_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def check_form(certificate: x509.Certificate, der: bytes) -> None:
    """Refuse a signature that says it ends within a byte; *der* is all of it.

    The library does not look at that count, which is outside what is signed: one
    certificate would have several forms. Source: RFC 5280, section 4.1.1.3.
    """
    if not der.endswith(b"\0" + certificate.signature):
        text = "its signature is not a whole number of bytes"
        raise RuleBrokenError("malformed_certificate", text)


def leaf_identity(leaf: Extensions) -> SpiffeID:
    """Return the identity that a *leaf* names in its only URI.

    Raises:
        RuleBrokenError: it names none, several, or a whole trust domain.

    Source: X509-SVID standard, sections 2, 3.1 and 5.2.
    """
    uris = leaf.uris
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


def check_leaf(leaf: x509.Certificate, extensions: Extensions) -> None:
    """Refuse a *leaf*, with its *extensions*, that does not prove just one workload.

    Source: X509-SVID standard, sections 3.1, 4.1, 4.3, 4.4 and 5.2; RFC 5280,
    section 4.2.1.6.
    """
    names = extensions.get(x509.SubjectAlternativeName)
    if names and not names.critical and not _subject(leaf):
        text = "its subject is empty, but its SAN is not critical"
        raise RuleBrokenError("san_not_critical", text)
    _check_leaf_use(extensions)
    _check_purpose(extensions)
    if fault := key_fault(leaf):
        raise RuleBrokenError("unsupported_key", fault)
    if fault := signature_fault(leaf):
        raise RuleBrokenError("weak_signature", fault)


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

    A *root* is trusted because it is in the bundle: it may lack the key usage, and
    its own signature, if it has one, proves only that no byte of it was changed.

    Source: X509-SVID standard, sections 3.2, 4.1 and 4.3.
    """
    extensions = Extensions(signer)
    basic = extensions.get(x509.BasicConstraints)
    if basic is None or not basic.value.ca:
        raise RuleBrokenError("signer_not_ca", f"{_named(signer)} is not a CA")
    usage = extensions.get(x509.KeyUsage)
    if usage.value.key_cert_sign is False if usage else not root:
        text = f"{_named(signer)} may not sign certificates (keyCertSign is not set)"
        raise RuleBrokenError("signer_no_cert_sign", text)
    if usage and not usage.critical and not root:
        text = f"the key usage of {_named(signer)} is not critical"
        raise RuleBrokenError("signer_key_usage_not_critical", text)
    _check_signer_names(signer, extensions.uris, trust_domain)
    if fault := key_fault(signer):
        text = f"{_named(signer)}: {fault}"
        raise RuleBrokenError("signer_unsupported_key", text)
    if root:
        _check_own_signature(signer, extensions)
    elif fault := signature_fault(signer):
        text = f"{_named(signer)}: {fault}"
        raise RuleBrokenError("signer_weak_signature", text)


def _check_signer_names(
    signer: x509.Certificate, uris: list[str], trust_domain: str
) -> None:
    """Refuse a signer with an identity other than that of *trust_domain* itself.

    Stricter than the standard, which lets one domain's authority sign for another.
    """
    if len(uris) > 1:
        text = f"{_named(signer)} holds {len(uris)} URIs, not one at most"
        raise RuleBrokenError("signer_several_uris", text)
    for uri in uris:
        try:
            identity = SpiffeID.parse(uri)
        except InvalidSpiffeIDError as error:
            text = f"{_named(signer)}: {error}"
            raise RuleBrokenError("signer_not_spiffe", text) from error
        if identity.path:
            text = f"{_named(signer)} is {identity}, a workload, which may not sign"
            raise RuleBrokenError("signer_has_path", text)
        if identity.trust_domain != trust_domain:
            text = f"{_named(signer)} signs for {uri}, not spiffe://{trust_domain}"
            raise RuleBrokenError("signer_other_domain", text)


def _check_own_signature(root: x509.Certificate, extensions: Extensions) -> None:
    """Refuse a self-signed *root* of which a byte was changed, by whatever accident."""
    own = extensions.get(x509.SubjectKeyIdentifier)
    signer = extensions.get(x509.AuthorityKeyIdentifier)
    by_itself = own and signer and own.value.digest == signer.value.key_identifier
    try:
        if not by_itself and root.issuer != root.subject:
            return
        if signature_fault(root) is None:  # older ones cannot be checked any more
            root.verify_directly_issued_by(root)
    except InvalidSignature as error:
        text = f"{_named(root)} is not as it was signed"
        raise RuleBrokenError("bad_signature", text) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        text = f"its own signature cannot be checked ({error})"
        raise RuleBrokenError("malformed_certificate", text) from error


def _check_leaf_use(extensions: Extensions) -> None:
    basic = extensions.get(x509.BasicConstraints)
    if basic and basic.value.ca:
        raise RuleBrokenError("ca_leaf", "its leaf is a CA")
    usage = extensions.get(x509.KeyUsage)
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


def _check_purpose(extensions: Extensions) -> None:
    purposes = extensions.get(x509.ExtendedKeyUsage)
    if purposes and not all(each in purposes.value for each in _PURPOSES):
        text = "its extended key usage is not for both servers and clients"
        raise RuleBrokenError("wrong_purpose", text)


class Extensions:
    """What a certificate says beside its key and dates, by kind."""

    def __init__(self, certificate: x509.Certificate) -> None:
        try:
            found = certificate.extensions
        except (
            ValueError,
            x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType,
        ) as error:
            text = f"its extensions cannot be read ({error})"
            raise RuleBrokenError("malformed_certificate", text) from error
        # By type, since the library's own look-up costs as much as all the rules
        self._found: dict[type, Any] = {type(each.value): each for each in found}

    def get(self, kind: type[_T]) -> x509.Extension[_T] | None:
        """Return the extension of that *kind*, if there is one."""
        return self._found.get(kind)

    @property
    def uris(self) -> list[str]:
        """The URIs among the names."""
        names = self.get(x509.SubjectAlternativeName)
        kind = x509.UniformResourceIdentifier
        return names.value.get_values_for_type(kind) if names else []


def _subject(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string()
    except (ValueError, TypeError) as error:
        text = f"its subject cannot be read ({error})"
        raise RuleBrokenError("malformed_certificate", text) from error


def _named(certificate: x509.Certificate) -> str:
    return _subject(certificate) or "a certificate without a subject"
