"""Decide about one forwarded call: whose it is, where it goes, whether it may."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from router._ask import SESSION, Ask, read
from router._births import wanted
from router._errors import (
    OverloadedError,
    RouterError,
    SandboxUnreachableError,
    SessionExpiredError,
    SessionNotFoundError,
    SessionRequiredError,
)
from router._granted import Granted
from router._refusals import reason_of
from router._rules import belongs, fits, for_caller
from tlsloader.grpc import CALLER

if TYPE_CHECKING:
    from clock import Clock
    from router._audit import Audit
    from router._births import Births
    from router._callers import Caller
    from router._channels import Channels
    from router._forward import Method
    from router._locator import Locator
    from router._sessions import Session

__all__ = ["Admission", "Load"]

_log = logging.getLogger("router")

_MAKING = frozenset(("Execute", "RunCode", "WriteFile"))
# How long a broken call waits to learn whether its session has ended, in seconds.
_WHY = 1.0


class Load:
    """How many calls are under way, and how many may be."""

    __slots__ = ("limit", "open", "session_limit")

    def __init__(self, limit: int, session_limit: int) -> None:
        self.limit, self.session_limit = limit, session_limit
        self.open = 0

    def enter(self) -> None:
        """Count one more call.

        Raises:
            OverloadedError: there are as many as may be.
        """
        if self.open >= self.limit:
            raise OverloadedError("too many calls are under way", limit="server")
        self.open += 1


class Admission:
    """Gives forwarded calls their passage; `router._forward` asks it each time."""

    def __init__(  # noqa: PLR0913 - the parts that have a say
        self,
        *,
        locator: Locator,
        channels: Channels,
        births: Births,
        load: Load,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._locator, self._channels, self._births = locator, channels, births
        self._load, self._audit, self._clock = load, audit, clock

    async def admit(self, method: Method, context: Any) -> Granted:
        """Return the passage of one call.

        Raises:
            RouterError: it may not pass; this is already in the audit log.
        """
        caller: Caller = CALLER.get()
        ask = Ask()
        entered = False
        try:
            self._load.enter()
            entered = True
            ask = read(context.invocation_metadata())
            if ask.session_id:
                session = self._locator.known(ask.session_id)
                if session is None:
                    session = await self._locator.locate(ask.session_id)
                belongs(session.owner, caller)
                fits(ask, session.namespace, session.template)
                return await self._open(method, caller, ask, session)
            return await self._first_call(method, caller, ask, context)
        except BaseException as error:
            if entered:
                self._load.open -= 1
            if not isinstance(error, RouterError):
                raise
            told = for_caller(error, caller)
            self._audit.refused(caller, method.path, ask, reason_of(told), str(told))
            raise told from error

    async def _open(
        self, method: Method, caller: Caller, ask: Ask, session: Session
    ) -> Granted:
        upstream = self._channels.get(session.session_id)
        if upstream is None:
            upstream = await self._channels.reach(session)
        if upstream.open >= self._load.session_limit:
            raise OverloadedError(
                "too many calls are under way in the session", limit="session"
            )
        granted = Granted(session, upstream, self._why_lost, self._closed)
        granted.start = upstream.call(method)
        granted.metadata = (
            *upstream.introduce(session, caller, self._clock.monotonic()),
            *ask.passed,
        )
        upstream.open += 1
        upstream.used = self._clock.now()
        self._audit.allowed(caller, method.label, upstream)
        return granted

    async def _first_call(
        self, method: Method, caller: Caller, ask: Ask, context: Any
    ) -> Granted:
        """Make the session that the call did not name."""
        if method.name not in _MAKING or not ask.template:
            raise SessionRequiredError(f"the call does not name a session in {SESSION}")
        session = await self._births.first_call(wanted(caller, ask, ask.template))
        news = ((SESSION, session.session_id),)
        told = False
        try:
            granted = await self._open(method, caller, ask, session)
            granted.news = news
            granted.keep = bool(ask.idempotency_key)
            told = True  # from now on that is the passage's business
        except RouterError:
            await context.send_initial_metadata(news)
            told = True
            raise
        finally:
            if not (told or ask.idempotency_key):
                self._births.abandon(session.session_id)
        return granted

    def _closed(self, granted: Granted) -> None:
        self._load.open -= 1
        granted.upstream.open -= 1
        granted.upstream.used = self._clock.now()
        if granted.news and not granted.told and not granted.keep:
            self._births.abandon(granted.session.session_id)

    async def _why_lost(self, session: Session, details: str) -> RouterError:
        """Say what a broken connection to a sandbox means to the one who called."""
        named = {"session_id": session.session_id, "sandbox_id": session.sandbox_id}
        _log.warning("connection to a sandbox lost", extra={**named, "detail": details})
        try:
            async with asyncio.timeout(_WHY):
                self._locator.require_manager()
                await self._locator.look_up(session.session_id)
        except (SessionExpiredError, SessionNotFoundError) as error:
            told = {
                k: v for k, v in error.metadata.items() if not k.startswith("owner")
            }
            told["session_id"] = session.session_id
            return SessionExpiredError("the session has ended", **told)
        except (RouterError, TimeoutError):
            pass
        return SandboxUnreachableError("the connection to the sandbox was lost")
