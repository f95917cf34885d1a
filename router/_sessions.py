"""What the Router knows of sessions: live ones, and that others are over."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from auth import Principal

__all__ = ["Door", "Session", "Sessions"]

_ENDED_LIMIT = 65_536


class Door(NamedTuple):
    """Where a sandbox takes calls, and the one identity proven there."""

    address: str
    spiffe_id: str


@dataclass(frozen=True, slots=True)
class Session:
    """One session whose sandbox takes calls, and where that is."""

    session_id: str
    sandbox_id: str
    namespace: str
    template: str
    owner: Principal
    door: Door
    expires_at: datetime


class Sessions:
    """Live sessions, fed by the WorkloadManager's watch and by single look-ups.

    An id that ended never comes back: ids are not reused, so a late answer of a
    look-up loses against the news of the end. Used from the event loop only.
    """

    def __init__(self) -> None:
        self._live: dict[str, Session] = {}
        # In which watch each session was learned by a look-up.
        self._learned: dict[str, int] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._watch = 0
        self._snapshot: dict[str, Session] | None = None
        self._listeners: list[Callable[[str], None]] = []

    def __len__(self) -> int:
        return len(self._live)

    def on_end(self, listener: Callable[[str], None]) -> None:
        """Call *listener* with the id of each session that ends."""
        self._listeners.append(listener)

    def find(self, session_id: str, now: datetime) -> Session | None:
        """Return a live session; ``None``: ask the WorkloadManager.

        A session past its end is not returned even if nobody said that it ended.
        """
        session = self._live.get(session_id)
        return session if session is not None and now < session.expires_at else None

    def has_ended(self, session_id: str) -> bool:
        """Say whether that session is known to be over."""
        return session_id in self._ended

    def learn(self, session: Session) -> bool:
        """Take the answer of a look-up; ``False``: it is out of date."""
        if session.session_id in self._ended:
            return False
        self._live[session.session_id] = session
        self._learned[session.session_id] = self._watch
        return True

    def changed(self, session: Session) -> None:
        """Take the watch's word for one live session."""
        if session.session_id not in self._ended:
            self._live[session.session_id] = session
            self._learned.pop(session.session_id, None)

    def end(self, session_id: str) -> None:
        """Forget a session for good and tell the listeners."""
        known = self._live.pop(session_id, None)
        self._learned.pop(session_id, None)
        if session_id in self._ended:
            return
        self._ended[session_id] = None
        if len(self._ended) > _ENDED_LIMIT:
            self._ended.popitem(last=False)
        if known is not None:
            for listener in self._listeners:
                listener(session_id)

    def begin_watch(self) -> None:
        """Note that a new watch begins: what was learned before is older than it."""
        self._watch += 1
        self._snapshot = None

    def snapshot(self, sessions: Iterable[Session], *, complete: bool) -> None:
        """Take one part of a snapshot; the last part replaces what was known."""
        if self._snapshot is None:
            self._snapshot = {}
        self._snapshot.update((each.session_id, each) for each in sessions)
        if complete:
            fresh, self._snapshot = self._snapshot, None
            self._replace(fresh)

    def _replace(self, fresh: dict[str, Session]) -> None:
        for session_id in [each for each in self._live if each not in fresh]:
            if self._learned.get(session_id) == self._watch:
                # Learned while the snapshot was on its way, so either may be the
                # newer: ask again at the next call, and leave running calls alone.
                del self._live[session_id], self._learned[session_id]
            else:
                self.end(session_id)
        for session in fresh.values():
            self.changed(session)
