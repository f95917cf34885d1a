"""An authority whose key and certificate somebody else made, read from PEM files."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authority._authority import Authority
from authority._errors import AuthorityError
from authority._x509 import SigningKey
from tlsloader import Material, MaterialError, SpiffeID

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

__all__ = ["CAFiles", "CATexts"]

_LARGEST: Final = 1 << 20
_TRIAL: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class CAFiles:
    """Where an authority is.

    ``certificate`` holds the signing certificate and, below it, the intermediates
    above it; ``bundle`` the roots they lead to. Without a bundle a root has to stand
    among the certificates.
    """

    certificate: Path
    key: Path
    bundle: Path | None = None

    def read(self) -> CATexts:
        """Return what the files hold now; blocks on file I/O.

        Raises:
            AuthorityError: one is missing or unreadable, or others may read the key.
        """
        roots = None if self.bundle is None else _read(self.bundle)
        return CATexts(
            self, _read(self.certificate), _read(self.key, private=True), roots
        )


@dataclass(frozen=True, slots=True)
class CATexts:
    """What the files of an authority held at one look."""

    files: CAFiles
    certificate: bytes
    key: bytes
    bundle: bytes | None

    def __repr__(self) -> str:
        return f"CATexts({self.files})"

    def authority(self, trust_domain: str, *, now: datetime) -> Authority:
        """Return the authority, which is proven to sign identities of *trust_domain*.

        The proof is a trial: an identity that it signs is judged as those who get
        one judge theirs.

        Raises:
            AuthorityError: it is broken, expired, no pair, or may not do that.
        """
        key, chain = self._key(), self._certificates(self.certificate)
        if key.public_key() != chain[0].public_key():
            text = f"{self.files.key} is not the key of {self.files.certificate}"
            hint = "its first certificate must be the one that signs"
            raise AuthorityError("key_mismatch", text, hint=hint)
        roots = self._roots(chain)
        authority = Authority(
            trust_domain,
            key,
            chain[0],
            intermediates=[each for each in chain if each not in roots],
            roots=roots,
        )
        if now >= authority.not_after:
            text = f"{self.files.certificate} expired at {authority.not_after:%FT%TZ}"
            hint = "have the authority's certificate issued anew"
            raise AuthorityError("authority_expired", text, hint=hint)
        self._try(authority, now)
        return authority

    def _key(self) -> SigningKey:
        try:
            key = load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # the cause stays out: it may quote the key
            text = f"{self.files.key} holds no private key in plain PEM"
            hint = "write one key there, without a pass phrase, mode 0600"
            raise AuthorityError("bad_key", text, hint=hint) from None
        if not isinstance(key, SigningKey):
            text = f"the key in {self.files.key} is neither ECDSA nor RSA"
            raise AuthorityError("unsupported_key", text, hint="make an ECDSA key")
        return key

    def _certificates(self, pem: bytes) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(pem)
        except (ValueError, x509.InvalidVersion) as error:
            text = f"{self.files.certificate} or its bundle is broken ({error})"
            hint = "write PEM certificates there, the one that signs first"
            raise AuthorityError("bad_certificate", text, hint=hint) from error

    def _roots(self, chain: list[x509.Certificate]) -> list[x509.Certificate]:
        if self.bundle is not None:
            return self._certificates(self.bundle)
        roots = [each for each in chain if each.subject == each.issuer]
        if not roots:
            text = f"no root stands in {self.files.certificate}"
            hint = "add it at the end, or give the roots in a bundle file"
            raise AuthorityError("no_root", text, hint=hint)
        return roots

    def _try(self, authority: Authority, now: datetime) -> None:
        probe = SpiffeID.parse(f"spiffe://{authority.trust_domain}/probe")
        issued = authority.issue(probe, life=_TRIAL, now=now)
        try:
            Material.parse(
                key=issued.key, chain=issued.chain, bundle=authority.bundle, now=now
            )
        except MaterialError as error:
            domain = authority.trust_domain
            text = f"{self.files.certificate} cannot sign for {domain}: {error}"
            hint = f"give a certificate authority of spiffe://{domain}"
            raise AuthorityError(error.reason, text, hint=hint) from error


def _read(path: Path, *, private: bool = False) -> bytes:
    """Return what *path* holds; a FIFO or a device must not hang or flood us."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            data = file.read(_LARGEST) if stat.S_ISREG(found.st_mode) else None
    except OSError as error:
        text = f"{path} cannot be read ({error.strerror})"
        hint = "check the path, and that our user may read it"
        raise AuthorityError("file_unreadable", text, hint=hint) from error
    if data is None or len(data) == _LARGEST:
        text = f"{path} is no ordinary PEM file"
        raise AuthorityError("not_a_file", text, hint="name a PEM file")
    foreign = found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}
    if private and foreign:
        text = f"{path} is not ours alone: others can read or write it"
        hint = f"chown it to uid {os.geteuid()} and `chmod go= {path}`"
        raise AuthorityError("not_private", text, hint=hint)
    return data
