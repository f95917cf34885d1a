"""All sessions that are not over, in one place, each with its present state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloadmanager._values import Session, State

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Roster"]


class Roster:
    """Sessions that start or are ready, by id and by sandbox."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._by_sandbox: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def find(self, session_id: str) -> Session | None:
        """Return the session, unless it is over or never was."""
        return self._sessions.get(session_id)

    def of_sandbox(self, sandbox_id: str) -> Session | None:
        """Return the session of a sandbox."""
        return self._sessions.get(self._by_sandbox.get(sandbox_id, ""))

    def put(self, session: Session) -> None:
        """Keep *session* in its present state."""
        self._sessions[session.session_id] = session
        self._by_sandbox[session.sandbox_id] = session.session_id

    def drop(self, session: Session) -> None:
        """Forget *session*; an unknown one is fine."""
        self._sessions.pop(session.session_id, None)
        self._by_sandbox.pop(session.sandbox_id, None)

    def ready(self) -> list[Session]:
        """Return the sessions that can be used."""
        return [each for each in self if each.state is State.READY]
