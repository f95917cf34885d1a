"""Every exception this room raises.

* TLSLoaderError
    * InvalidSpiffeIDError   the text is not a SPIFFE ID
    * InvalidMatcherError    the text is not a rule about SPIFFE IDs
    * AllowlistError         the file holds no list of such rules
    * MaterialError          the files do not form one usable identity
    * RuleBrokenError        a certificate breaks a rule (only inside this room)
    * PeerRefusedError       the peer did not prove an identity this door admits
    * ListenError            the acceptor cannot listen where it was told to
    * DialFailedError        no proven connection to the expected server
    * ForkedError            a forked child may not use what is its parent's

A ``reason`` is one stable snake_case word, fit for logs and metrics; the text
is a sentence for people. Neither is ever told to a peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlsloader._matchers import Allowlist
    from tlsloader._spiffe import SpiffeID

__all__ = [
    "AllowlistError",
    "DialFailedError",
    "ForkedError",
    "InvalidMatcherError",
    "InvalidSpiffeIDError",
    "ListenError",
    "MaterialError",
    "PeerRefusedError",
    "RuleBrokenError",
    "TLSLoaderError",
]

_SHOWN = 100


class TLSLoaderError(Exception):
    """Base of the room; catch this to catch them all."""


class InvalidSpiffeIDError(TLSLoaderError, ValueError):
    """The text is not a SPIFFE ID; *fault* says in words what *reason* means.

    Source: SPIFFE-ID standard, section 2.
    """

    def __init__(self, text: str, reason: str, fault: str) -> None:
        super().__init__(f"{_shortened(text)} is not a SPIFFE ID: {fault}")
        self.text = text
        self.reason = reason
        self.fault = fault


class InvalidMatcherError(TLSLoaderError, ValueError):
    """The text is not a rule about SPIFFE IDs; *fault* says what *reason* means."""

    def __init__(self, text: str, reason: str, fault: str) -> None:
        super().__init__(f"{_shortened(text)} admits nobody: {fault}")
        self.text = text
        self.reason = reason
        self.fault = fault


class AllowlistError(TLSLoaderError):
    """The file holds no allowlist; *line* is where it is wrong, 0 as a whole."""

    hint = "one rule a line: spiffe://td/id, spiffe://td/prefix/ or spiffe://td/"

    def __init__(self, reason: str, text: str, *, line: int = 0) -> None:
        super().__init__(text)
        self.reason = reason
        self.line = line


class MaterialError(TLSLoaderError):
    """The files do not form one usable identity.

    The text names the file at fault and what to do about it.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class RuleBrokenError(TLSLoaderError):
    """A certificate breaks one rule of X509-SVID; never leaves this room."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class PeerRefusedError(TLSLoaderError):
    """The peer did not prove an identity that this door admits.

    ``peer_id`` is what its leaf claims, for our log only: unless the reason is
    ``not_admitted``, nobody has proven it.
    """

    def __init__(
        self, reason: str, text: str, *, peer_id: SpiffeID | None = None
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.peer_id = peer_id


class ListenError(TLSLoaderError):
    """The acceptor cannot listen on *address*."""

    def __init__(self, address: str, reason: str, text: str) -> None:
        super().__init__(text)
        self.address = address
        self.reason = reason


class DialFailedError(TLSLoaderError):
    """There is no proven connection to a server that is *expected*."""

    def __init__(
        self,
        reason: str,
        text: str,
        *,
        expected: Allowlist,
        presented: SpiffeID | None = None,
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.expected = expected
        self.presented = presented


class ForkedError(TLSLoaderError):
    """A forked child may not use what belongs to the process *owner*."""

    def __init__(self, what: str, owner: int) -> None:
        super().__init__(
            f"{what} belongs to process {owner}, from which this one was forked: "
            "start a new program instead, or fork before gRPC is used"
        )
        self.owner = owner


def _shortened(text: str) -> str:
    """Return *text* quoted and cut, so that hostile input cannot flood a log."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
