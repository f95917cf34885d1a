"""Who makes the sandboxes' identities: the flags that say so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path  # noqa: TC003  # read at run time
from typing import TYPE_CHECKING

from cryptography import x509

from authority import Authority, CAFiles, CAIssuer
from clock import SYSTEM
from serving import DURATION, PATH, IdentityFlags, flag
from workloadmanager import _ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from authority import CATexts, Issuer
    from serving import Fault
    from tlsloader import SpiffeID

__all__ = ["IssuerFlags"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerFlags(IdentityFlags):
    """The part of our settings that says where sandboxes' identities come from.

    Meant to be inherited. Nothing set: an authority of our own, made at the first
    start and kept in the state folder.
    """

    svid_ttl: float = flag(
        "--svid-ttl", DURATION, default="1h", help="The life of sandboxes' identities"
    )
    sandbox_ca_cert_file: Path | None = flag(
        "--sandbox-ca-cert-file",
        PATH,
        default=None,
        help="The authority that signs sandboxes' identities, and below it the "
        "intermediates above it, PEM; followed for changes",
    )
    sandbox_ca_key_file: Path | None = flag(
        "--sandbox-ca-key-file", PATH, default=None, help="Its private key, PEM"
    )
    sandbox_ca_bundle_file: Path | None = flag(
        "--sandbox-ca-bundle-file",
        PATH,
        default=None,
        help="The roots above it, PEM, if none stands in --sandbox-ca-cert-file",
    )

    @property
    def ca_files(self) -> CAFiles | None:
        """The files of the authority, if there are any."""
        certificate, key = self.sandbox_ca_cert_file, self.sandbox_ca_key_file
        if certificate is None or key is None:
            return None
        return CAFiles(certificate, key, self.sandbox_ca_bundle_file)

    async def issuer(
        self, domain: str, namespace: str, *, own: Path, bundle: Path
    ) -> Issuer:
        """Return who issues identities of *domain*.

        Args:
            domain: the sandboxes' trust domain.
            namespace: the namespace in their SPIFFE IDs.
            own: the folder of an authority of our own.
            bundle: where the roots are published.

        Raises:
            AuthorityError: it cannot.
        """
        files, life = self.ca_files, timedelta(seconds=self.svid_ttl)
        published = await asyncio.to_thread(_roots_in, bundle)

        def names() -> SpiffeID:
            return _ids.identity_of(domain, namespace, _ids.sandbox_id())

        texts = None if files is None else await asyncio.to_thread(files.read)
        authority = await asyncio.to_thread(
            _authority, texts, own, domain, SYSTEM.now()
        )
        return CAIssuer(
            authority, names=names, life=life, published=published, texts=texts
        )

    def issuer_faults(self) -> Iterator[Fault]:
        """Yield what is wrong about where sandboxes' identities are to come from."""
        pair = {
            "--sandbox-ca-cert-file": self.sandbox_ca_cert_file,
            "--sandbox-ca-key-file": self.sandbox_ca_key_file,
        }
        told = {name for name, value in pair.items() if value is not None}
        if told or self.sandbox_ca_bundle_file is not None:
            for name in sorted(set(pair) - told):
                yield f"{name} is not set", "an authority is a certificate and a key"


def _authority(
    texts: CATexts | None, own: Path, domain: str, now: datetime
) -> Authority:
    """Return the authority that signs: the one of files, or our own; blocks."""
    if texts is not None:
        return texts.authority(domain, now=now)
    return Authority.load_or_create(own, domain, now=now)


def _roots_in(bundle: Path) -> Sequence[x509.Certificate]:
    """Return the roots that an earlier process published."""
    try:
        return x509.load_pem_x509_certificates(bundle.read_bytes())
    except (OSError, ValueError):
        return ()
