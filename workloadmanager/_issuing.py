"""Who makes the sandboxes' identities: the flags that say so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path  # noqa: TC003  # read at run time
from typing import TYPE_CHECKING

from cryptography import x509

from authority import Authority, CAFiles, CAIssuer
from authority.spire import Spire, SpireIssuer
from clock import SYSTEM
from serving import (
    COUNT,
    DURATION,
    PATH,
    SPIFFE_ID,
    WORKLOAD_API,
    IdentityFlags,
    flag,
)
from tlsloader import SpiffeID, parse_endpoint
from workloadmanager import _ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from authority import CATexts, Issuer
    from serving import Fault

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

    sandbox_spire_server: str | None = flag(
        "--sandbox-spire-server",
        WORKLOAD_API,
        default=None,
        help="Instead: the socket of the SPIRE server of the sandboxes' trust domain",
    )
    sandbox_spire_agent: str | None = flag(
        "--sandbox-spire-agent",
        WORKLOAD_API,
        default=None,
        help="The admin socket of its agent here, which knows us as a delegate",
    )
    sandbox_spire_parent: SpiffeID | None = flag(
        "--sandbox-spire-parent",
        SPIFFE_ID,
        default=None,
        help="The SPIFFE ID of that agent, or of a node alias for it",
    )
    sandbox_spire_spare: int = flag(
        "--sandbox-spire-spare",
        COUNT,
        default="16",
        help="How many identities SPIRE makes ahead",
    )

    @property
    def spire(self) -> Spire | None:
        """Where the sandboxes' SPIRE is, if there is one."""
        server, agent = self.sandbox_spire_server, self.sandbox_spire_agent
        parent = self.sandbox_spire_parent
        if server is None or agent is None or parent is None:
            return None
        return Spire(parse_endpoint(server), parse_endpoint(agent), parent)

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

        if (spire := self.spire) is not None:
            spare = self.sandbox_spire_spare
            made = SpireIssuer(spire, domain, names=names, life=life, spare=spare)
            return await made.begin()
        texts = None if files is None else await asyncio.to_thread(files.read)
        authority = await asyncio.to_thread(
            _authority, texts, own, domain, SYSTEM.now()
        )
        return CAIssuer(
            authority, names=names, life=life, published=published, texts=texts
        )

    def issuer_faults(self) -> Iterator[Fault]:
        """Yield what is wrong about where sandboxes' identities are to come from."""
        files = {
            "--sandbox-ca-cert-file": self.sandbox_ca_cert_file,
            "--sandbox-ca-key-file": self.sandbox_ca_key_file,
        }
        spire = {
            "--sandbox-spire-server": self.sandbox_spire_server,
            "--sandbox-spire-agent": self.sandbox_spire_agent,
            "--sandbox-spire-parent": self.sandbox_spire_parent,
        }
        roots = self.sandbox_ca_bundle_file
        told = [name for name, value in (files | spire).items() if value is not None]
        if roots is not None or set(files) & set(told):
            hint = "an authority is a certificate and a key"
            yield from _missing(files, told, hint)
        if set(spire) & set(told):
            yield from _missing(spire, told, "SPIRE is a server, an agent, and its ID")
        if set(files) & set(told) and set(spire) & set(told):
            yield (
                "sandboxes' identities are to come from an authority and from SPIRE",
                "name the --sandbox-ca-… files or the --sandbox-spire-… sockets",
            )


def _missing(names: Iterable[str], told: Iterable[str], hint: str) -> Iterator[Fault]:
    for name in names:
        if name not in told:
            yield f"{name} is not set", hint


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
