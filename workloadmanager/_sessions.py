"""Sessions: the idea of this room. Knows neither gRPC nor how sandboxes are made."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from clock import SYSTEM, Clock
from workloadmanager._births import Births
from workloadmanager._deadlines import Deadlines
from workloadmanager._demand import Capacity
from workloadmanager._endings import Endings
from workloadmanager._errors import (
    ClosingError,
    SecretsNotIsolatedError,
    SessionExpiredError,
    SessionNotFoundError,
)
from workloadmanager._feed import Feed
from workloadmanager._ids import is_session_id
from workloadmanager._maker import Maker
from workloadmanager._pages import Page, page
from workloadmanager._pools import Pools
from workloadmanager._roster import Roster
from workloadmanager._store import REMEMBERED
from workloadmanager._takeover import take_over
from workloadmanager._values import Owner, Session, State, Wish, milliseconds
from workloadmanager._wishes import check, check_span

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from workloadmanager._deadlines import Touch
    from workloadmanager._engine import Activity, Engine
    from workloadmanager._store import Store
    from workloadmanager._templates import Templates

__all__ = ["Sessions"]

_PURGE = 600.0
_LONGEST_SPAN = timedelta(days=36500)
_ANY = Capacity()

_log = logging.getLogger(__name__)


class Sessions:
    """All sessions of this WorkloadManager, from their making to their end."""

    def __init__(
        self,
        *,
        store: Store,
        engine: Engine,
        templates: Templates,
        capacity: Capacity = _ANY,
        clock: Clock = SYSTEM,
    ) -> None:
        self._store, self._engine, self._clock = store, engine, clock
        self._roster = Roster()
        self._tasks: asyncio.TaskGroup | None = None
        self.templates = templates
        self.ended: Counter[str] = Counter()
        self.feed = Feed(self._roster.ready, clock=clock)
        self._endings = Endings(
            store=store,
            engine=engine,
            roster=self._roster,
            clock=clock,
            over=self._on_end,
        )
        self._deadlines = Deadlines(
            self._roster, engine, self._endings, self.feed, clock
        )
        self.pools = Pools(
            engine=engine,
            templates=templates,
            taken=lambda: len(self._roster) + self._endings.under_way,
            capacity=capacity,
            clock=clock,
        )
        self.pools.watch(self.feed.tell_waiting)
        self.maker = Maker(
            store=store,
            engine=engine,
            roster=self._roster,
            endings=self._endings,
            pools=self.pools,
            clock=clock,
            limit=capacity.limit,
            born=self._on_birth,
        )
        self._births = Births(
            maker=self.maker,
            store=store,
            roster=self._roster,
            endings=self._endings,
            clock=clock,
        )

    def __len__(self) -> int:
        return len(self._roster)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take over what an earlier process left; keep deadlines while inside.

        At the end what is being made is undone, and what was made ahead ends; the
        sandboxes of sessions live on.
        """
        async with asyncio.TaskGroup() as tasks:
            self._endings.use(tasks)
            self._engine.watch(self._on_death)
            await take_over(
                self._store, self._engine, self._endings, self._clock, self._on_adopted
            )
            self._tasks = tasks
            jobs = [
                tasks.create_task(self._deadlines.keep(tasks)),
                tasks.create_task(self.feed.beat()),
                tasks.create_task(self.pools.keep(tasks)),
                tasks.create_task(self._purge()),
            ]
            try:
                yield
            finally:
                self._tasks = None
                self.feed.close()
                self._births.stop_all()
                for job in jobs:
                    job.cancel()

    async def create(self, wish: Wish) -> Session:
        """Return a new session, or the one that this request id has made before.

        Raises:
            WorkloadManagerError: there is none, and nothing is left of it.
        """
        if self._tasks is None:
            raise ClosingError
        check(wish)
        template = self.templates.find(wish.template)
        if wish.contents.secrets and self._engine.level(template) == "none":
            raise SecretsNotIsolatedError
        return await self._births.create(wish, template, self._tasks)

    async def find(self, session_id: str) -> Session:
        """Return a session that is not over.

        Raises:
            SessionExpiredError: it ended less than 24 hours ago.
            SessionNotFoundError: there is none.
        """
        session = self._roster.find(session_id)
        if session is not None:
            return session
        ended = self._endings.find(session_id)
        if ended is None and is_session_id(session_id):
            ended = await self._store.find(session_id)
        if ended is None or ended.ended_at is None:
            raise SessionNotFoundError(session_id)
        if ended.ended_at + REMEMBERED <= self._clock.now():
            raise SessionNotFoundError(session_id)
        raise SessionExpiredError(ended)

    async def look(self, session_id: str) -> Session:
        """As `find`, and ask the sandbox what last went wrong in it.

        Raises:
            SessionExpiredError: it ended less than 24 hours ago.
            SessionNotFoundError: there is none.
        """
        session = await self.find(session_id)
        if session.state is not State.READY:
            return session
        activity = await self._engine.activity(session.sandbox_id)
        present = self._roster.find(session_id)
        if activity is None or present is None:  # it does not say, or ended meanwhile
            return await self.find(session_id)
        if activity.last_fault != present.last_fault:
            present = replace(present, last_fault=activity.last_fault)
            self._roster.put(present)
        return present

    def page(
        self,
        *,
        owner: Owner | None = None,
        namespace: str = "",
        size: int = 100,
        token: str = "",
    ) -> Page:
        """Return sessions that are not over, oldest first.

        Raises:
            InvalidRequestError: the token is none of ours.
        """
        wanted = (
            each
            for each in self._roster
            if owner in (None, each.owner) and namespace in ("", each.namespace)
        )
        return page(wanted, size=size, token=token)

    async def extend(self, session_id: str, lifetime: timedelta) -> Session:
        """Let a session end *lifetime* from now, if its template lets it live so long.

        Raises:
            WorkloadManagerError: the session is over, or the lifetime no good.
        """
        session = await self.find(session_id)
        check_span("lifetime", lifetime, _LONGEST_SPAN)
        end = milliseconds(self._clock.now() + lifetime)
        extended = replace(session, expires_at=min(end, session.latest_expiry))
        if session.state is State.READY:
            await self._store.save(extended)
            present = self._roster.find(session_id)
            if present is None:  # it ended while we wrote
                return await self.find(session_id)
            extended = replace(present, expires_at=extended.expires_at)
            self._roster.put(extended)
            self._deadlines.set(extended)
            self.feed.publish(extended)
        return extended

    async def delete(self, session_id: str) -> None:
        """End a session; return when its processes and files are gone.

        Raises:
            WorkloadManagerError: there is none.
        """
        if self._endings.find(session_id) is None:
            session = await self.find(session_id)
            if session.state is State.STARTING:
                await self._births.stop(session, "it was deleted")
                return
            self._endings.begin(session, "deleted")
        await self._endings.wait(session_id)

    async def delete_all(self, by: str) -> None:
        """End all sessions; return when everything is gone."""
        for session in self._roster.ready():
            self._endings.begin(session, by)
        await self._endings.wait_all()

    async def touch(self, touches: Iterable[Touch]) -> None:
        """Note what Routers saw; unknown sessions are fine."""
        if news := self._deadlines.touch(touches):
            await self._store.touch(news)

    def _on_birth(self, session: Session) -> None:
        self._roster.put(session)
        self._deadlines.set(session)
        self.feed.publish(session)
        _log.info(
            "session ready",
            extra={
                "session_id": session.session_id,
                "sandbox_id": session.sandbox_id,
                "spiffe_id": session.spiffe_id,
                "template": session.template,
            },
        )

    def _on_adopted(self, session: Session, activity: Activity) -> None:
        self._roster.put(session)
        self._deadlines.see(session, activity)
        self._deadlines.set(session)

    def _on_end(self, session: Session) -> None:
        self.ended[session.ended_by] += 1
        self._deadlines.drop(session)
        self.feed.publish(session)

    def _on_death(self, sandbox_id: str, reason: str) -> None:
        session = self._roster.of_sandbox(sandbox_id)
        if session is None:
            self.pools.died(sandbox_id, reason)
        elif session.state is State.STARTING:
            self._births.died(session, reason)
        else:
            self._endings.begin(session, "fault", reason)

    async def _purge(self) -> NoReturn:
        """Forget tombstones and request ids once they are old."""
        while True:
            for sandbox_id in await self._store.purge(self._clock.now() - REMEMBERED):
                self._engine.forget(sandbox_id)
            await self._clock.sleep(_PURGE)
