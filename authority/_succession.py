"""Which authority signs, and which roots others have to know meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from cryptography import x509

    from authority._authority import Authority

__all__ = ["Succession"]


class Succession:
    """One authority after the other, without anybody who is not believed meanwhile.

    A new root is published *lead* before its authority signs, and an old one stays
    for *life* after its last signature: so long what it signed may be in use.

    Args:
        first: the authority at the beginning.
        published: the roots that are known already, from an earlier process.
        lead: how long it takes at most until a published root is known.
        life: how long an identity lives at most.
        now: the time, in UTC; so in every method.
    """

    def __init__(
        self,
        first: Authority,
        *,
        published: Sequence[x509.Certificate] = (),
        lead: timedelta,
        life: timedelta,
        now: datetime,
    ) -> None:
        self._lead, self._life = lead, life
        self._leaving = dict.fromkeys(published, now + life)
        self._signs: Authority | None = None
        self._next: tuple[datetime, Authority] | None = None
        self.follow(first, now)

    def follow(self, authority: Authority, now: datetime) -> None:
        """Let *authority* be the next; one that waits for its turn never has it."""
        known = self._known()
        wait = known and not known.issuperset(authority.roots)
        self._next = now + self._lead if wait else now, authority
        self._turn(now)

    def signer(self, now: datetime) -> Authority | None:
        """Return the authority that signs; ``None``: its root is not known yet."""
        self._turn(now)
        return self._signs

    def wait(self, now: datetime) -> timedelta | None:
        """Return in what time the next one signs; ``None``: there is none."""
        return None if self._next is None else self._next[0] - now

    def bundle(self, now: datetime) -> bytes:
        """Return all roots that are to be known, as PEM, in one order for each set."""
        self._turn(now)
        coming = self._next[1].roots if self._next else ()
        roots = self._known().union(coming)
        return b"".join(sorted(root.public_bytes(Encoding.PEM) for root in roots))

    def _turn(self, now: datetime) -> None:
        """Do what is due."""
        if self._next is not None and self._next[0] <= now:
            if self._signs is not None:
                self._leaving |= dict.fromkeys(self._signs.roots, now + self._life)
            self._signs, self._next = self._next[1], None
        self._leaving = {root: end for root, end in self._leaving.items() if now < end}

    def _known(self) -> set[x509.Certificate]:
        """Return the roots that have been published for long enough."""
        return {*self._leaving, *(self._signs.roots if self._signs else ())}
