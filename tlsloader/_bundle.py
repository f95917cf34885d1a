"""Trust bundles: the roots of each trust domain, kept apart from all others.

Source: SPIFFE Trust Domain and Bundle, sections 3 to 5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.serialization import Encoding

from tlsloader._chain import Anchors
from tlsloader._errors import MaterialError, RuleBrokenError
from tlsloader._files import Text
from tlsloader._jwks import looks_like_one, parse_document
from tlsloader._pem import read_certificates, write_certificates
from tlsloader._rules import check_form, check_signer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography import x509

    from tlsloader._snapshot import Found, Snapshot

__all__ = ["TrustBundle", "foreign_bundles", "own_bundle"]


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots of one trust domain; bundles are never merged.

    Equal when they hold the same roots, in whatever order. An empty one is
    allowed and trusts nobody.
    """

    trust_domain: str
    certificates: tuple[x509.Certificate, ...] = field(repr=False, compare=False)
    fingerprint: str = field(init=False)
    anchors: Anchors = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ders = {each.public_bytes(Encoding.DER): each for each in self.certificates}
        fingerprint = hashlib.sha256(b"".join(sorted(ders))).hexdigest()
        object.__setattr__(self, "certificates", tuple(ders.values()))
        object.__setattr__(self, "fingerprint", fingerprint)
        object.__setattr__(self, "anchors", Anchors(list(ders.values())))

    @classmethod
    def parse(cls, trust_domain: str, text: bytes, *, name: str = "the bundle") -> Self:
        """Return the bundle of *trust_domain* that *text* holds.

        That is PEM, or a SPIFFE bundle document, of which the roots are taken.

        Raises:
            MaterialError: the text is broken, or a certificate in it may not
                sign identities of *trust_domain*; *name* is what to call it.
        """
        roots = _roots(text, name)
        try:
            for root in roots:
                check_form(root, root.public_bytes(Encoding.DER))
                check_signer(root, trust_domain, root=True)
            return cls(trust_domain, tuple(roots))
        except RuleBrokenError as error:
            fault = (
                f"{name} is no trust bundle of {trust_domain}: {error}; "
                "give each trust domain its own file of roots (--trust-bundle)"
            )
            raise MaterialError(f"bundle_{error.reason}", fault) from error

    @property
    def short_fingerprint(self) -> str:
        """The first 16 digits: what logs and metrics show."""
        return self.fingerprint[:16]

    @property
    def pem(self) -> bytes:
        """The roots as PEM text."""
        return write_certificates(self.certificates)


def _roots(text: bytes, name: str) -> Sequence[x509.Certificate]:
    if looks_like_one(text):
        return parse_document(text, name).roots
    return read_certificates(text, name)


def own_bundle(files: Snapshot, own: str) -> tuple[Text, Mapping[str, Found]]:
    """Return what *files* hold for *own*, our trust domain, and for all others.

    Raises:
        MaterialError: there is nothing for our own, or it cannot be read.
    """
    others = dict(files.others)
    found = others.pop(own, None)
    if files.bundle is None:
        if isinstance(found, MaterialError):
            raise found
        if found is None:
            text = (
                f"there is no bundle of {own}, our own trust domain; "
                f"add {own}.pem to --trust-bundle-dir, or name it by --mtls-ca-file"
            )
            raise MaterialError("no_own_bundle", text)
        return found, others
    if found is not None:
        name = found.name if isinstance(found, Text) else "a file"
        text = (
            f"{name} is a second bundle of {own}, our own trust domain, "
            f"beside {files.bundle.name}; drop one of them"
        )
        others[name] = MaterialError("own_domain_twice", text)
    return files.bundle, others


def foreign_bundles(
    found: Mapping[str, Found], held: Mapping[str, TrustBundle]
) -> tuple[dict[str, TrustBundle], Sequence[MaterialError]]:
    """Return the bundles that were *found*, and the faults of those that are no use.

    Of a domain whose bundle is no use the one that is *held* stays.
    """
    bundles, faults = {}, []
    for domain, each in found.items():
        try:
            bundles[domain] = _parsed(domain, each)
        except MaterialError as error:
            faults.append(error)
            if domain in held:
                bundles[domain] = held[domain]
    return bundles, faults


def _parsed(domain: str, found: Found) -> TrustBundle:
    if isinstance(found, MaterialError):
        raise found
    return TrustBundle.parse(domain, found.data, name=found.name)
