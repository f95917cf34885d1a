"""Every exception this room raises.

* AuthorityError            the authority cannot be used; *reason* and *hint* say why
    * NotIssuableError      nobody may have the identity that was asked for
"""

from __future__ import annotations

__all__ = ["AuthorityError", "NotIssuableError"]


class AuthorityError(Exception):
    """The authority cannot be used.

    ``reason`` is one stable snake_case word; ``hint`` says what to do.
    """

    def __init__(self, reason: str, text: str, *, hint: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.hint = hint


class NotIssuableError(AuthorityError, ValueError):
    """The identity that was asked for is not this authority's to give."""
