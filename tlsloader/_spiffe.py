"""SPIFFE IDs as values: parse once at the edge, compare everywhere.

Source: SPIFFE-ID standard, sections 2.1 to 2.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from tlsloader._errors import InvalidSpiffeIDError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SpiffeID", "parse_trust_domain"]

_SCHEME = "spiffe://"
_MAX_BYTES = 2048
_MAX_TRUST_DOMAIN = 255
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_REASONS: Final[Mapping[str, str]] = {
    "empty_id": "it is empty",
    "not_spiffe_scheme": f"it does not start with {_SCHEME}",
    "id_too_long": f"it is longer than {_MAX_BYTES} bytes",
    "no_trust_domain": "the trust domain is missing",
    "trust_domain_too_long": (
        f"the trust domain is longer than {_MAX_TRUST_DOMAIN} bytes"
    ),
    "bad_trust_domain": (
        "a trust domain holds only a-z, 0-9, dot, dash and underscore"
    ),
    "no_leading_slash": "the path does not start with a slash",
    "trailing_slash": "the path ends with a slash",
    "empty_segment": "the path has an empty segment",
    "dot_segment": "the path has a dot segment",
    "bad_path": "a path holds only letters, digits, dot, dash and underscore",
}


@dataclass(frozen=True, slots=True)
class SpiffeID:
    """One identity, ``spiffe://<trust_domain><path>``; always well formed.

    The path is empty (the trust domain itself) or starts with a slash. Both
    parts are ASCII without escapes, so equal values are equal identities.

    Raises:
        InvalidSpiffeIDError: the parts do not make a SPIFFE ID.
    """

    trust_domain: str
    path: str

    def __post_init__(self) -> None:
        text = f"{_SCHEME}{self.trust_domain}{self.path}"
        if len(text) > _MAX_BYTES:
            raise _error(text, "id_too_long")
        if reason := _trust_domain_fault(self.trust_domain) or _path_fault(self.path):
            raise _error(text, reason)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the identity written in *text*.

        Upper-case schemes and trust domains are refused although the standard
        compares them without case: nobody writes them in good faith.

        Raises:
            InvalidSpiffeIDError: *text* is not one; its ``reason`` says why.
        """
        if not text:
            raise _error(text, "empty_id")
        if not text.startswith(_SCHEME):
            raise _error(text, "not_spiffe_scheme")
        trust_domain, slash, path = text.removeprefix(_SCHEME).partition("/")
        return cls(trust_domain, slash + path)

    def __str__(self) -> str:
        """Return the canonical text; ``parse(str(x)) == x``."""
        return f"{_SCHEME}{self.trust_domain}{self.path}"


def parse_trust_domain(text: str) -> str:
    """Return the trust domain named by *text*, a bare name or a full SPIFFE ID.

    Raises:
        InvalidSpiffeIDError: *text* is neither.
    """
    if ":/" in text:
        return SpiffeID.parse(text).trust_domain
    return SpiffeID(text, "").trust_domain


def _error(text: str, reason: str) -> InvalidSpiffeIDError:
    return InvalidSpiffeIDError(text, reason, _REASONS[reason])


def _trust_domain_fault(name: str) -> str | None:
    if not name:
        return "no_trust_domain"
    if len(name) > _MAX_TRUST_DOMAIN:
        return "trust_domain_too_long"
    return None if _TRUST_DOMAIN.fullmatch(name) else "bad_trust_domain"


def _path_fault(path: str) -> str | None:
    if not path:
        return None
    first, *segments = path.split("/")
    if first:
        return "no_leading_slash"
    if not segments[-1]:
        return "trailing_slash"
    faults = (fault for segment in segments if (fault := _segment_fault(segment)))
    return next(faults, None)


def _segment_fault(segment: str) -> str | None:
    if not segment:
        return "empty_segment"
    if segment in {".", ".."}:
        return "dot_segment"
    return None if _SEGMENT.fullmatch(segment) else "bad_path"
