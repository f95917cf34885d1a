"""Make sessions, and unmake those whose caller never learned of them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from cubemesh.v1 import workloadmanager_pb2 as wm
from router._errors import (
    RouterError,
    SandboxUnreachableError,
    SessionExpiredError,
    SessionNotFoundError,
)
from router._flights import Flights
from router._registry import principal_to_wire, session_of

if TYPE_CHECKING:
    from clock import Clock
    from router._ask import Ask
    from router._callers import Caller
    from router._locator import Locator
    from router._registry import Registry
    from router._sessions import Session, Sessions

__all__ = ["Births", "wanted"]

_AGAIN = 2.0

_log = logging.getLogger("router")


def wanted(caller: Caller, ask: Ask, template: str) -> wm.CreateSessionRequest:
    """Return the request for a session of *caller* as *ask* wishes it."""
    return wm.CreateSessionRequest(
        request_id=ask.idempotency_key,
        owner=principal_to_wire(caller.principal),
        namespace=ask.namespace or "default",
        template=template,
    )


class Births:
    """Makes sessions for callers that may vanish at any moment."""

    def __init__(
        self, registry: Registry, sessions: Sessions, locator: Locator, clock: Clock
    ) -> None:
        self._registry, self._sessions = registry, sessions
        self._locator, self._clock = locator, clock
        self._flights: Flights[wm.SandboxSession] = Flights()
        self._orphans: list[str] = []
        self._wake = asyncio.Event()

    async def make(self, request: wm.CreateSessionRequest) -> wm.SandboxSession:
        """Make a session.

        Should the caller vanish meanwhile, the session is ended as soon as it is
        there, unless *request* has an id: by that the caller can still get at it,
        and it may have long been using it.

        Raises:
            RouterError: there is none.
        """
        self._locator.require_manager()
        work = self._flights.begin(object(), lambda: self._registry.create(request))
        try:
            made = await asyncio.shield(work)
        except asyncio.CancelledError:
            if not request.request_id:
                work.add_done_callback(self._abandon_result)
            raise
        if (session := session_of(made)) is not None:
            self._sessions.learn(session)
        return made

    async def first_call(self, request: wm.CreateSessionRequest) -> Session:
        """Make a session for a call that named none."""
        session = session_of(await self.make(request))
        if session is None:
            raise SandboxUnreachableError("the sandbox is not ready")
        return session

    def abandon(self, session_id: str) -> None:
        """End that session soon: nobody knows it."""
        self._orphans.append(session_id)
        self._wake.set()

    async def collect(self) -> NoReturn:
        """End abandoned sessions, however often it takes."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._orphans:
                    await self._unmake(self._orphans.pop())
        finally:
            await self._flights.end()

    async def _unmake(self, session_id: str) -> None:
        try:
            await self._registry.delete(session_id)
        except (SessionNotFoundError, SessionExpiredError):
            pass
        except RouterError as error:
            _log.warning(
                "cannot end an abandoned session yet",
                extra={"session_id": session_id, "detail": str(error)},
            )
            await self._clock.sleep(_AGAIN)
            self.abandon(session_id)
            return
        self._sessions.end(session_id)

    def _abandon_result(self, work: asyncio.Task[wm.SandboxSession]) -> None:
        if not work.cancelled() and work.exception() is None:
            self.abandon(work.result().session_id)
