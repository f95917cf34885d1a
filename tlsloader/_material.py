"""One generation of an identity, checked before anyone can hold it.

Source: X509-SVID standard, sections 4 and 5; SPIFFE Trust Domain and Bundle, section 4.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Store

from tlsloader._errors import MaterialError, RuleBrokenError
from tlsloader._files import Paths, Snapshot, Text
from tlsloader._pem import (
    read_certificates,
    read_key,
    write_certificates,
    write_key,
)
from tlsloader._rules import (
    MAX_CHAIN,
    check_dates,
    check_leaf,
    check_signer,
    leaf_identity,
    verified_chain,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from cryptography import x509

    from tlsloader._spiffe import SpiffeID

__all__ = ["Material", "Paths", "TrustBundle"]


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots of one trust domain; bundles are never merged.

    Equal when they hold the same roots, in whatever order. An empty one is
    allowed and trusts nobody.
    """

    trust_domain: str
    certificates: tuple[x509.Certificate, ...] = field(repr=False, compare=False)
    fingerprint: str = field(init=False)
    store: Store | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ders = {each.public_bytes(Encoding.DER): each for each in self.certificates}
        fingerprint = hashlib.sha256(b"".join(sorted(ders))).hexdigest()
        object.__setattr__(self, "certificates", tuple(ders.values()))
        object.__setattr__(self, "fingerprint", fingerprint)
        object.__setattr__(self, "store", Store(list(ders.values())) if ders else None)

    @classmethod
    def parse(cls, trust_domain: str, pem: bytes, *, name: str = "the bundle") -> Self:
        """Return the bundle of *trust_domain* that the PEM text *pem* holds.

        Raises:
            MaterialError: the text is broken, or a certificate in it may not
                sign identities of *trust_domain*; *name* is what to call it.
        """
        roots = read_certificates(pem, name)
        for root in roots:
            try:
                check_signer(root, trust_domain, root=True)
            except RuleBrokenError as error:
                text = (
                    f"{name} is no trust bundle of {trust_domain}: {error}; "
                    "give each trust domain its own file of roots (--trust-bundle)"
                )
                raise MaterialError(f"bundle_{error.reason}", text) from error
        return cls(trust_domain, tuple(roots))

    @property
    def pem(self) -> bytes:
        """The roots as PEM text."""
        return write_certificates(self.certificates)


@dataclass(frozen=True, slots=True)
class Material:
    """A private key, the chain it speaks for, and whom to trust.

    ``key`` is PKCS#8 PEM, ``chain`` is PEM with the leaf first, ``leaf_sha256``
    the hex digest of the leaf's DER; dates are the leaf's, in UTC. Two are equal
    when their content is, whatever their generation.
    """

    identity: SpiffeID
    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    leaf_sha256: str
    not_before: datetime
    not_after: datetime
    bundles: Mapping[str, TrustBundle] = field(hash=False)
    generation: int = field(default=1, compare=False)

    @classmethod
    def load(
        cls,
        paths: Paths,
        foreign: Mapping[str, Path] | None = None,
        *,
        now: datetime,
        generation: int = 1,
    ) -> Self:
        """Read *paths* and check them as one snapshot; blocks on file I/O.

        Args:
            paths: our own key, chain and bundle.
            foreign: files with the bundles of other trust domains, by domain.
            now: the instant, in UTC, at which our leaf must be valid.
            generation: the number that the snapshot gets.

        Raises:
            MaterialError: the files do not form one usable identity.
        """
        snapshot = Snapshot.read(paths, foreign or {}, complete=True)
        return cls.judged(snapshot, now=now, generation=generation)

    @classmethod
    def parse(  # noqa: PLR0913 -- as many parts as an identity has
        cls,
        *,
        key: bytes,
        chain: bytes,
        bundle: bytes,
        foreign: Mapping[str, bytes] | None = None,
        now: datetime,
        generation: int = 1,
    ) -> Self:
        """Check the PEM texts as one snapshot, as `load` does with files.

        Raises:
            MaterialError: they do not form one usable identity.
        """
        others = foreign or {}
        snapshot = Snapshot(
            Text("the key", key),
            Text("the chain", chain),
            Text("the bundle", bundle),
            {name: Text(f"the bundle of {name}", others[name]) for name in others},
        )
        return cls.judged(snapshot, now=now, generation=generation)

    @classmethod
    def judged(cls, files: Snapshot, *, now: datetime, generation: int) -> Self:
        """Check *files* against every rule about our own credential.

        Raises:
            MaterialError: they break one.
        """
        certificates = read_certificates(
            files.chain.data, files.chain.name, beside_key=True
        )
        leaf = certificates[0]
        identity = _own_identity(certificates, files.chain.name, now)
        key = read_key(files.key.data, files.key.name)
        if key.public_key() != leaf.public_key():
            text = (
                f"{files.key.name} is not the key of {files.chain.name}; if they are "
                "being renewed, one is still to come: write both from the same issue"
            )
            raise MaterialError("key_mismatch", text)
        bundles = _bundles(identity.trust_domain, files)
        _check_own_chain(certificates, bundles[identity.trust_domain], files, now)
        return cls(
            identity=identity,
            key=write_key(key),
            chain=write_certificates(certificates),
            leaf_sha256=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            bundles=MappingProxyType(bundles),
            generation=generation,
        )


def _own_identity(
    certificates: list[x509.Certificate], name: str, now: datetime
) -> SpiffeID:
    leaf, *signers = certificates
    if len(signers) > MAX_CHAIN:
        text = f"{name} holds more than {MAX_CHAIN} intermediates; drop the needless"
        raise MaterialError("chain_too_long", text)
    try:
        identity = leaf_identity(leaf)
        check_leaf(leaf)
        check_dates(leaf, now)
        for signer in signers:
            check_signer(signer, identity.trust_domain)
    except RuleBrokenError as error:
        text = f"{name} is no usable X509-SVID: {error}; have it issued anew"
        raise MaterialError(error.reason, text) from error
    return identity


def _bundles(own: str, files: Snapshot) -> dict[str, TrustBundle]:
    if own in files.foreign:
        text = (
            f"{files.foreign[own].name} is given as a foreign bundle of {own}, "
            "our own trust domain; drop that --trust-bundle"
        )
        raise MaterialError("own_domain_twice", text)
    texts = {own: files.bundle, **files.foreign}
    return {
        domain: TrustBundle.parse(domain, text.data, name=text.name)
        for domain, text in texts.items()
    }


def _check_own_chain(
    certificates: list[x509.Certificate],
    bundle: TrustBundle,
    files: Snapshot,
    now: datetime,
) -> None:
    leaf, *signers = certificates
    try:
        verified_chain(leaf, signers, bundle.store, now)
    except RuleBrokenError as error:
        text = (
            f"{files.chain.name} was not signed by a root in {files.bundle.name}: "
            f"{error}; put the bundle of {bundle.trust_domain} there"
        )
        raise MaterialError(error.reason, text) from error
