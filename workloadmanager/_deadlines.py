"""When sessions end by themselves: at their time, or when nobody uses them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workloadmanager._timers import Timers
from workloadmanager._values import Session, milliseconds

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable
    from datetime import datetime

    from clock import Clock
    from workloadmanager._endings import Endings
    from workloadmanager._engine import Activity, Engine
    from workloadmanager._feed import Feed
    from workloadmanager._roster import Roster

__all__ = ["Deadlines", "Touch"]

_ANSWER = 2.0  # seconds that Routers have to say that a session is not idle


@dataclass(frozen=True, slots=True)
class Touch:
    """What somebody saw of a session's use."""

    session_id: str
    last_activity: datetime
    open_calls: int


class Deadlines:
    """One timer per session. Use only moves a date; the timer looks when it is due."""

    def __init__(
        self,
        roster: Roster,
        engine: Engine,
        endings: Endings,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._roster, self._engine, self._endings = roster, engine, endings
        self._feed, self._clock = feed, clock
        self._timers: Timers[str] = Timers(clock)
        self._checks: set[asyncio.Task[None]] = set()

    def set(self, session: Session) -> None:
        """Look at *session* when it may have to end."""
        self._timers.set(session.session_id, min(session.expires_at, session.idle_at))

    def drop(self, session: Session) -> None:
        """Forget *session*."""
        self._timers.drop(session.session_id)

    def touch(self, touches: Iterable[Touch]) -> list[tuple[str, datetime]]:
        """Note uses of sessions; return those that were news, with their times."""
        now = milliseconds(self._clock.now())
        news = []
        for touch in touches:
            seen = now if touch.open_calls else milliseconds(touch.last_activity)
            session = self._roster.find(touch.session_id)
            if session is not None and session.last_activity < (seen := min(seen, now)):
                self._roster.put(replace(session, last_activity=seen))
                news.append((touch.session_id, seen))
        return news

    def see(self, session: Session, activity: Activity | None) -> None:
        """Note what a sandbox says itself."""
        if activity is not None:
            calls, last = activity.open_calls, activity.last_activity
            self.touch([Touch(session.session_id, last, calls)])

    async def keep(self, tasks: asyncio.TaskGroup) -> None:
        """End sessions when it is time, until cancelled."""
        try:
            async for session_id in self._timers.due():
                session = self._roster.find(session_id)
                if session is not None:
                    self._look(session, tasks)
        finally:
            for check in self._checks:
                check.cancel()

    def _look(self, session: Session, tasks: asyncio.TaskGroup) -> None:
        now = self._clock.now()
        if now >= session.expires_at:
            self._endings.begin(session, "expired")
        elif now >= session.idle_at:
            self._timers.set(session.session_id, session.expires_at)
            check = tasks.create_task(self._end_if_idle(session))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)
        else:
            self.set(session)

    async def _end_if_idle(self, session: Session) -> None:
        """Ask all who could know; end the session unless one of them objects."""
        self._feed.ask(session.session_id)
        await self._clock.sleep(_ANSWER)
        self.see(session, await self._engine.activity(session.sandbox_id))
        present = self._roster.find(session.session_id)
        if present is None:
            return
        if self._clock.now() >= present.idle_at:
            self._endings.begin(present, "idle")
        else:
            self.set(present)
