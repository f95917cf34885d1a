"""One channel per sandbox, opened once, closed with its session or when idle."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from router._errors import SessionExpiredError
from router._flights import Flights
from serving import span

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from clock import Clock
    from router._ahead import Ahead
    from router._callers import Caller
    from router._forward import Method
    from router._sessions import Session, Sessions
    from router._ways import Introduction, Line, Way

__all__ = ["Channels", "Upstream"]

_IDLE = timedelta(minutes=2)
_SWEEP = 15.0
# For how long, in seconds, an introduction is used again before the way is asked.
_INTRODUCED = 5.0


class Upstream:
    """The way to one sandbox, and what goes on there.

    Slots are written by the Router's own rooms: ``open`` calls under way, ``used``
    when the last one began or ended, ``told`` what of it the WorkloadManager knows.
    """

    __slots__ = (
        "_calls",
        "_line",
        "_met",
        "_way",
        "audited",
        "open",
        "session_id",
        "told",
        "used",
    )

    def __init__(self, session_id: str, line: Line, way: Way, now: datetime) -> None:
        self.session_id = session_id
        self._line, self._way = line, way
        self._calls: dict[str, Any] = {}
        self._met: dict[Caller, tuple[float, Introduction]] = {}
        self.audited: dict[tuple[Caller, str], int] = {}
        self.open = 0
        self.used = now
        self.told: tuple[datetime, int] | None = None

    @property
    def news(self) -> bool:
        """Whether the WorkloadManager should hear of this sandbox."""
        return self.told != (self.used, 0)

    def call(self, method: Method) -> Any:
        """Return what starts a call of *method*; bytes in, bytes out."""
        starter = self._calls.get(method.path)
        if starter is None:
            kind = "_".join(
                "stream" if many else "unary"
                for many in (method.streams_up, method.streams_down)
            )
            starter = getattr(self._line.channel, kind)(method.path)
            if method.known:
                self._calls[method.path] = starter
        return starter

    def introduce(self, session: Session, caller: Caller, now: float) -> Introduction:
        """Return the metadata that tell the sandbox who calls."""
        known = self._met.get(caller)
        if known is not None and now < known[0]:
            return known[1]
        introduction = self._way.introduce(session, caller)
        self._met[caller] = now + _INTRODUCED, introduction
        return introduction

    async def aclose(self) -> None:
        """Cancel the calls under way and free the channel."""
        await self._line.aclose()


class Channels:
    """All upstreams of this Router."""

    def __init__(
        self, sessions: Sessions, way: Way, ahead: Ahead, clock: Clock
    ) -> None:
        self._sessions, self._way, self._clock = sessions, way, clock
        self._ahead = ahead
        self._open: dict[str, Upstream] = {}
        self._leaving: list[Upstream] = []
        self._wake = asyncio.Event()
        self._flights: Flights[Upstream] = Flights()
        sessions.on_end(self._drop)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Upstream]:
        return iter(list(self._open.values()))

    def get(self, session_id: str) -> Upstream | None:
        """Return the upstream of a session if it is open."""
        return self._open.get(session_id)

    async def reach(self, session: Session) -> Upstream:
        """Return the upstream of *session*, opened at need.

        Raises:
            SandboxUnreachableError: it cannot be opened.
            SessionExpiredError: the session ended meanwhile.
        """
        upstream = self._open.get(session.session_id)
        if upstream is not None:
            return upstream
        return await self._flights.join(session.session_id, lambda: self._made(session))

    async def _made(self, session: Session) -> Upstream:
        with span("router.channel"):
            line = self._ahead.take(session.door)
            line = line or await self._way.connect(session.door)
        upstream = Upstream(session.session_id, line, self._way, self._clock.now())
        if self._sessions.has_ended(session.session_id):
            self._leave(upstream)
            issuer, subject = session.owner.key
            raise SessionExpiredError(
                "the session has ended", owner_issuer=issuer, owner_subject=subject
            )
        self._open[session.session_id] = upstream
        return upstream

    async def sweep(self) -> NoReturn:
        """Close what nobody has used for two minutes."""
        while True:
            await self._clock.sleep(_SWEEP)
            before = self._clock.now() - _IDLE
            for upstream in self:
                if not upstream.news and upstream.used < before:
                    self._drop(upstream.session_id)

    async def tend(self) -> NoReturn:
        """Close what has been dropped, at once, and everything at the end."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._close_leaving()
        finally:
            await self._flights.end()
            for upstream in self:
                self._drop(upstream.session_id)
            await self._close_leaving()

    def _drop(self, session_id: str) -> None:
        if (upstream := self._open.pop(session_id, None)) is not None:
            self._leave(upstream)

    def _leave(self, upstream: Upstream) -> None:
        self._leaving.append(upstream)
        self._wake.set()

    async def _close_leaving(self) -> None:
        while self._leaving:
            await self._leaving.pop().aclose()
