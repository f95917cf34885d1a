"""Who a caller is, once proven, whatever proved it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from auth._errors import InvalidPrincipalError
from tlsloader.strict import parse_object

if TYPE_CHECKING:
    from tlsloader import SpiffeID

__all__ = ["PRINCIPAL_METADATA", "Principal"]

PRINCIPAL_METADATA = "x-cubemesh-principal-bin"
"""The metadata key in which the Router tells PicoD who calls."""

_MAX_PART = 2048  # a SPIFFE ID is never longer
_MAX_BYTES = 3 * _MAX_PART
_PARTS = {"issuer", "subject", "display"}


@dataclass(frozen=True, slots=True)
class Principal:
    """A proven caller; *issuer* and *subject* decide, *display* is for people.

    Raises:
        InvalidPrincipalError: a part is empty (but display), too long, or holds
            characters that cannot be printed.
    """

    issuer: str
    subject: str
    display: str = ""

    def __post_init__(self) -> None:
        for name in ("issuer", "subject", "display"):
            value = getattr(self, name)
            if len(value) > _MAX_PART or not value.isprintable():
                raise InvalidPrincipalError(f"the {name} is too long or unprintable")
        if not self.issuer or not self.subject:
            raise InvalidPrincipalError("the issuer or the subject is empty")

    @classmethod
    def of(cls, peer: SpiffeID) -> Self:
        """Return the principal that a certificate for *peer* proves."""
        display = peer.path.rpartition("/")[2] or peer.trust_domain
        return cls(f"spiffe://{peer.trust_domain}", str(peer), display)

    @property
    def key(self) -> tuple[str, str]:
        """What ownership is compared by: issuer and subject."""
        return self.issuer, self.subject

    def encode(self) -> bytes:
        """Return the one byte form, for `PRINCIPAL_METADATA`: JSON."""
        parts = {
            "issuer": self.issuer,
            "subject": self.subject,
            "display": self.display,
        }
        return json.dumps(parts, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Return what *raw* encodes; only what `encode` makes is taken.

        Raises:
            InvalidPrincipalError: *raw* is anything else.
        """
        try:
            parts = parse_object(raw, _MAX_BYTES)
        except ValueError as error:
            raise InvalidPrincipalError(str(error)) from None
        if parts.keys() != _PARTS:
            raise InvalidPrincipalError("not the parts of a principal")
        if not all(isinstance(value, str) for value in parts.values()):
            raise InvalidPrincipalError("a part is no text")
        return cls(**parts)
