"""Names of sessions and sandboxes: 128 random bits each, never used twice."""

from __future__ import annotations

import base64
import re
import secrets
from typing import TYPE_CHECKING

from tlsloader import SpiffeID

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "identity_of",
    "is_label",
    "is_sandbox_id",
    "is_session_id",
    "sandbox_id",
    "session_id",
]

_BITS = "[a-z2-7]{25}[aeimquy4]"  # the last of 26 characters carries 3 bits
_SESSION = re.compile(rf"ses-{_BITS}")
_SANDBOX = re.compile(rf"sbx-{_BITS}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def session_id(randomness: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Return a new session id, ``ses-`` and 26 characters of base32."""
    return f"ses-{_base32(randomness(16))}"


def sandbox_id(randomness: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Return a new sandbox id: part of a SPIFFE path, a folder's name, an audience."""
    return f"sbx-{_base32(randomness(16))}"


def identity_of(trust_domain: str, namespace: str, sandbox_id: str) -> SpiffeID:
    """Return the one SPIFFE ID that a sandbox ever has."""
    return SpiffeID(trust_domain, f"/ns/{namespace}/sandbox/{sandbox_id}")


def is_session_id(text: str) -> bool:
    """Say whether *text* has the form of a session id."""
    return _SESSION.fullmatch(text) is not None


def is_sandbox_id(text: str) -> bool:
    """Say whether *text* has the form of a sandbox id."""
    return _SANDBOX.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Say whether *text* is a DNS label. Source: RFC 1123, section 2.1."""
    return _LABEL.fullmatch(text) is not None


def _base32(bits: bytes) -> str:
    return base64.b32encode(bits).decode().rstrip("=").lower()
