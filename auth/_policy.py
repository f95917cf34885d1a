"""Who may call which method: decisions as values, without I/O and without gRPC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auth._errors import Denied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlsloader import Allowlist, SpiffeID

__all__ = ["Allow", "Decision", "Deny", "Policy"]

_PATTERN = re.compile(r"/[A-Za-z_][A-Za-z0-9_.]*/(?:\*|[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Allow:
    """The call may go on, made by *peer*."""

    peer: SpiffeID


@dataclass(frozen=True, slots=True)
class Deny:
    """The call must not go on; *reason* and *text* are for our log."""

    reason: str
    text: str


Decision = Allow | Deny


class Policy:
    """The peers allowed per method: ``/pkg.Service/Method`` or ``/pkg.Service/*``.

    A method with an entry of its own is ruled by that entry alone; one with none
    is open to nobody.

    Raises:
        ValueError: a pattern is neither form.
    """

    def __init__(self, rules: Mapping[str, Allowlist]) -> None:
        for pattern in rules:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(f"{pattern!r} is not /pkg.Service/Method or /…/*")
        self._rules = dict(rules)

    def decide(self, method: str, peer: SpiffeID | None) -> Decision:
        """Say whether *peer* (``None``: no identity shown) may call *method*."""
        if peer is None:
            return Deny("no_certificate", "the peer showed no identity")
        rule = self._rules.get(method)
        if rule is None:
            rule = self._rules.get(f"{method.rpartition('/')[0]}/*")
        if rule is None:
            return Deny("unlisted_method", f"nobody may call {method}")
        if not rule.admits(peer):
            return Deny("not_admitted", f"{peer} may not call {method}")
        return Allow(peer)

    def require(self, method: str, peer: SpiffeID | None) -> SpiffeID:
        """Return *peer* if it may call *method*.

        Raises:
            Denied: it may not.
        """
        match self.decide(method, peer):
            case Allow(allowed):
                return allowed
            case Deny(reason, text):
                raise Denied(reason, text)
