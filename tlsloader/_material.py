"""One generation of an identity, checked before anyone can hold it.

Source: X509-SVID standard, sections 4 and 5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Self

from cryptography.hazmat.primitives.serialization import Encoding

from tlsloader._bundle import TrustBundle, foreign_bundles, own_bundle
from tlsloader._files import Text
from tlsloader._own import check_same, end_of_proof, own_identity, own_key
from tlsloader._pem import read_certificates, write_certificates, write_key
from tlsloader._snapshot import BundlePaths, Paths, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tlsloader._errors import MaterialError
    from tlsloader._spiffe import SpiffeID

__all__ = ["Judged", "Material"]


@dataclass(frozen=True, slots=True)
class Material:
    """A private key, the chain it speaks for, and whom to trust.

    ``key`` is PKCS#8 PEM, ``chain`` is PEM with the leaf first, ``leaf_sha256``
    the hex digest of the leaf's DER. Dates are in UTC: ``not_before`` is the leaf's,
    ``not_after`` the last moment at which it leads to a root. Two are equal when
    their content is, whatever their generation.
    """

    identity: SpiffeID
    key: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    leaf_sha256: str
    not_before: datetime
    not_after: datetime
    bundles: Mapping[str, TrustBundle] = field(hash=False)
    generation: int = field(default=1, compare=False)

    def covers(self, now: datetime) -> bool:
        """Say whether the identity can be proven at *now* (UTC)."""
        return self.not_before <= now <= self.not_after

    @classmethod
    def load(
        cls, paths: Paths, bundles: BundlePaths | None = None, *, now: datetime
    ) -> Self:
        """Read *paths* and check them as one snapshot; blocks on file I/O.

        Args:
            paths: our own key, chain and bundle.
            bundles: those of other trust domains.
            now: the instant, in UTC, at which our leaf must be valid.

        Raises:
            MaterialError: the files do not form one usable identity.
        """
        snapshot = Snapshot.read(paths, bundles or BundlePaths(), complete=True)
        return cls.judged(snapshot, now=now)

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
    def judged(cls, files: Snapshot, *, now: datetime, generation: int = 1) -> Self:
        """Check *files* against every rule about our own credential.

        Raises:
            MaterialError: they break one.
        """
        fresh, faults = cls._judged(files, now, generation)
        if faults:
            raise faults[0]
        return fresh

    def renewed(self, files: Snapshot, *, now: datetime) -> Judged:
        """Check *files* as what follows this generation.

        Of another trust domain whose bundle cannot be used the one we hold stays,
        and the fault is told: nobody else's files keep our own identity from going on.

        Raises:
            MaterialError: our own part breaks a rule, or makes us somebody else.
        """
        return Judged(*self._judged(files, now, self.generation + 1, held=self))

    @classmethod
    def _judged(
        cls, files: Snapshot, now: datetime, generation: int, held: Self | None = None
    ) -> tuple[Self, Sequence[MaterialError]]:
        certificates = read_certificates(
            files.chain.data, files.chain.name, beside_key=True
        )
        leaf = certificates[0]
        identity = own_identity(certificates, files.chain.name, now)
        check_same(identity, files, held.identity if held else identity)
        key = own_key(leaf, files)
        own, others = own_bundle(files, identity.trust_domain)
        bundle = TrustBundle.parse(identity.trust_domain, own.data, name=own.name)
        end = end_of_proof(certificates, bundle, (files.chain.name, own.name), now)
        foreign, faults = foreign_bundles(others, held.bundles if held else {})
        fresh = cls(
            identity=identity,
            key=write_key(key),
            chain=write_certificates(certificates),
            leaf_sha256=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
            not_before=leaf.not_valid_before_utc,
            not_after=end,
            bundles=MappingProxyType({**foreign, bundle.trust_domain: bundle}),
            generation=generation,
        )
        return fresh, faults


class Judged(NamedTuple):
    """A new generation, and what of other trust domains could not be taken."""

    material: Material
    faults: Sequence[MaterialError]
