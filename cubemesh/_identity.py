"""Our certificate, its key and the mesh's bundle: read as one, followed over time."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from cubemesh._errors import ConfigurationError

if TYPE_CHECKING:
    from cubemesh._profile import Profile

# Validity ::= SEQUENCE of UTCTime or GeneralizedTime, twice.
# Source: RFC 5280, 4.1.2.5.
_TIME = rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
_VALIDITY = re.compile(rb"\x30[\x1e\x20\x22]" + _TIME + _TIME)
_CERTIFICATE = re.compile(
    b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)
_WAIT = 3.0  # how long a rotation may take to write its files, in seconds
_PAUSE = 0.02


class Validity(NamedTuple):
    """From when until when a certificate holds, in UTC."""

    begin: datetime
    end: datetime

    @property
    def half(self) -> datetime:
        """The middle: by then somebody should have renewed it."""
        return self.begin + (self.end - self.begin) / 2


@dataclass(frozen=True, slots=True)
class Identity:
    """One set of files that belong together; PEM, ``leaf`` DER."""

    ca: bytes
    chain: bytes
    key: bytes = field(repr=False)
    leaf: bytes = field(repr=False)
    stamps: tuple[tuple[int, ...], ...]
    validity: Validity | None = field(init=False)
    """When our certificate holds; ``None`` if it cannot be told."""

    def __post_init__(self) -> None:
        # Once, since every call asks for it
        object.__setattr__(self, "validity", _validity(self.leaf))

    @property
    def leaf_sha256(self) -> str:
        """The fingerprint of our certificate, in hexadecimal."""
        return hashlib.sha256(self.leaf).hexdigest()

    @classmethod
    def load(cls, profile: Profile, *, wait: float = _WAIT) -> Self:
        """Read the files that *profile* names; blocks.

        A rotation may be under way: for up to *wait* seconds it tries again until
        certificate and key belong together.

        Raises:
            ConfigurationError: a file is missing or unreadable, or they do not match.

        """
        paths = [
            Path(p) for p in (profile.ca_file, profile.cert_file, profile.key_file)
        ]
        until = time.monotonic() + wait
        while True:
            try:
                return cls._once(paths)
            except (OSError, ValueError, AttributeError) as error:
                if time.monotonic() >= until:
                    raise _unreadable(error, profile) from error
            time.sleep(_PAUSE)

    @classmethod
    def _once(cls, paths: list[Path]) -> Self:
        stamps = stamps_of(paths)
        ca, chain, key = (path.read_bytes() for path in paths)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(paths[1], paths[2], password=_no_password)
        context.load_verify_locations(cadata=ca.decode("ascii"))
        if stamps_of(paths) != stamps:
            message = "the files changed while they were read"
            raise ValueError(message)
        pem = _CERTIFICATE.search(chain)
        if pem is None:
            message = "no certificate"
            raise ValueError(message)
        leaf = ssl.PEM_cert_to_DER_cert(pem[0].decode("ascii"))
        return cls(ca, chain, key, leaf, stamps)

    def same(self, other: Identity) -> bool:
        """Say whether *other* holds the same bytes."""
        mine = (self.ca, self.chain, self.key)
        return mine == (other.ca, other.chain, other.key)


def stamps_of(paths: list[Path]) -> tuple[tuple[int, ...], ...]:
    """Return what changes when one of *paths* is written or replaced."""
    found = [os.stat(path) for path in paths]  # noqa: PTH116 - the cheap one
    return tuple((s.st_mtime_ns, s.st_ino, s.st_size, s.st_dev) for s in found)


def _validity(leaf: bytes) -> Validity | None:
    found = _VALIDITY.search(leaf)
    if found is None:
        return None
    short = found[1] or found[2][2:], found[3] or found[4][2:]
    return Validity(*map(_parse_time, short))


def _parse_time(text: bytes) -> datetime:
    century = "20" if text < b"50" else "19"
    return datetime.strptime(f"{century}{text.decode()}", "%Y%m%d%H%M%S").replace(
        tzinfo=UTC
    )


def _no_password() -> bytes:
    message = "the key is encrypted"
    raise ValueError(message)


def _unreadable(error: Exception, profile: Profile) -> ConfigurationError:
    if isinstance(error, ssl.SSLError):
        message = (
            f"{profile.cert_file} and {profile.key_file} are not a pair of "
            f"certificate and key, or {profile.ca_file} is no bundle"
        )
    elif isinstance(error, OSError):
        message = f"cannot read {error.filename}: {error.strerror}"
    else:
        message = f"cannot use {profile.cert_file}: {error}"
    return ConfigurationError(message, hint="is the mesh of this profile still there?")
