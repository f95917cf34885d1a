"""Find a session: in memory when it is warm, by one question when it is not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from router._errors import (
    ManagerUnreachableError,
    SandboxUnreachableError,
    SessionExpiredError,
    SessionNotFoundError,
)
from router._flights import Flights
from router._registry import session_of

if TYPE_CHECKING:
    from clock import Clock
    from cubemesh.v1 import workloadmanager_pb2 as wm
    from router._registry import Registry
    from router._sessions import Session, Sessions

__all__ = ["PATIENCE", "Locator"]

PATIENCE = 60.0
"""How long, in seconds, we go on without a word of the WorkloadManager."""

_SESSION_ID = re.compile(r"ses-[a-z2-7]{26}")


class Locator:
    """Finds sessions, and knows whether the WorkloadManager is still heard."""

    def __init__(self, sessions: Sessions, registry: Registry, clock: Clock) -> None:
        self._sessions, self._registry, self._clock = sessions, registry, clock
        self._flights: Flights[wm.SandboxSession] = Flights()
        self._heard = clock.monotonic()
        self.lookups = 0

    def heard(self) -> None:
        """Note that the WorkloadManager is there."""
        self._heard = self._clock.monotonic()

    @property
    def silence(self) -> float:
        """For how many seconds the WorkloadManager was not heard."""
        return self._clock.monotonic() - self._heard

    def require_manager(self) -> None:
        """Let changes pass only while we know what happens to sessions.

        Raises:
            ManagerUnreachableError: nothing was heard for `PATIENCE` seconds.
        """
        if self.silence > PATIENCE:
            raise ManagerUnreachableError("sessions cannot be managed at the moment")

    def known(self, session_id: str) -> Session | None:
        """Return a session that is at hand; costs no look-up."""
        return self._sessions.find(session_id, self._clock.now())

    async def locate(self, session_id: str) -> Session:
        """Return a session, by a look-up if it is not at hand.

        Raises:
            SessionNotFoundError: nobody knows it.
            SessionExpiredError: it has ended; its metadata names the owner.
            SandboxUnreachableError: it is not ready.
            ManagerUnreachableError: the WorkloadManager cannot be asked.
        """
        if (session := self.known(session_id)) is not None:
            return session
        if not _SESSION_ID.fullmatch(session_id):
            raise SessionNotFoundError("no such session")
        self.require_manager()
        session = session_of(await self.look_up(session_id))
        if session is None:
            raise SandboxUnreachableError("the sandbox is not ready")
        if self._sessions.has_ended(session_id):  # while the answer was on its way
            raise SessionExpiredError("the session has ended", **_owner(session))
        return session

    async def look_up(self, session_id: str) -> wm.SandboxSession:
        """Ask about one session; all who ask at once share the answer."""

        async def ask() -> wm.SandboxSession:
            self.lookups += 1
            found = await self._registry.get(session_id)
            if (session := session_of(found)) is not None:
                self._sessions.learn(session)
            return found

        return await self._flights.join(session_id, ask)

    async def aclose(self) -> None:
        """End the questions under way."""
        await self._flights.end()


def _owner(session: Session) -> dict[str, str]:
    issuer, subject = session.owner.key
    return {"owner_issuer": issuer, "owner_subject": subject}
