"""Every exception this room raises.

* AuthError
    * Denied                  the call must not go on; for our log, not the caller
        * TokenRefusedError   the token proves nothing here
    * InvalidPrincipalError   the bytes are not a principal
    * KeysError               a key file cannot be used

A ``reason`` is one stable snake_case word, fit for logs and metrics; the text is a
sentence for people and never holds a token or a key.
"""

from __future__ import annotations

__all__ = [
    "AuthError",
    "Denied",
    "InvalidPrincipalError",
    "KeysError",
    "TokenRefusedError",
]


class AuthError(Exception):
    """Base of the room; catch this to catch them all."""


class Denied(AuthError):  # noqa: N818 - a decision, not a fault
    """The call must not go on; the caller is told "denied" and nothing else."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class TokenRefusedError(Denied):
    """The token proves nothing here; reason ``no_token`` if there was none."""


class InvalidPrincipalError(AuthError, ValueError):
    """The bytes are not a principal as our Router encodes it."""


class KeysError(AuthError):
    """A key file cannot be used; the text names the file and the fault."""

    hint = "the Routers write and read these files; do the paths agree?"
