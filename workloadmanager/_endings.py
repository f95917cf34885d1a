"""How a session ends: told to everybody at once, then its sandbox goes, all of it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

from workloadmanager._values import Session, State, milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from clock import Clock
    from workloadmanager._engine import Engine
    from workloadmanager._roster import Roster
    from workloadmanager._store import Store

__all__ = ["Endings", "destroy"]

_LONGEST_PAUSE = 30.0

_log = logging.getLogger(__name__)


class Endings:
    """Ends sessions; whoever wants to know waits for the task."""

    def __init__(
        self,
        *,
        store: Store,
        engine: Engine,
        roster: Roster,
        clock: Clock,
        over: Callable[[Session], None],
    ) -> None:
        self._store, self._engine, self._roster = store, engine, roster
        self._clock, self._over = clock, over
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[str, tuple[Session, asyncio.Task[None]]] = {}

    def use(self, tasks: asyncio.TaskGroup) -> None:
        """Run what is to come in *tasks*."""
        self._tasks = tasks

    @property
    def under_way(self) -> int:
        """How many sandboxes are going but not gone."""
        return len(self._running)

    def find(self, session_id: str) -> Session | None:
        """Return a session that is just ending."""
        found = self._running.get(session_id)
        return found[0] if found else None

    def begin(self, session: Session, by: str, fault: str = "") -> asyncio.Task[None]:
        """End *session*, because of *by*; the task is done when all of it is gone.

        A session that ends already goes on doing so.
        """
        if session.session_id in self._running:
            return self._running[session.session_id][1]
        ended = replace(
            session,
            state=State.ENDED,
            ended_at=milliseconds(self._clock.now()),
            ended_by=by,
            last_fault=fault or session.last_fault,
        )
        self._roster.drop(session)
        task = self.resume(ended)
        self._over(ended)
        _log.info(
            "session ended",
            extra={
                "session_id": ended.session_id,
                "sandbox_id": ended.sandbox_id,
                "ended_by": by,
                "last_fault": ended.last_fault,
            },
        )
        return task

    def resume(self, ended: Session) -> asyncio.Task[None]:
        """Go on with an end that was begun; the task is done when all is gone."""
        if self._tasks is None:
            raise RuntimeError("sessions are not running")
        task = self._tasks.create_task(self._finish(ended))
        self._running[ended.session_id] = ended, task
        return task

    async def wait(self, session_id: str) -> None:
        """Return when nothing is left of an ending session."""
        if session_id in self._running:
            await asyncio.shield(self._running[session_id][1])

    async def wait_all(self) -> None:
        """Return when nothing is ending any more."""
        while self._running:
            await asyncio.wait([task for _, task in self._running.values()])

    async def undo(self, session: Session) -> None:
        """Leave nothing of a session that never was ready."""
        try:
            await self._destroy(session)
            await self._store.remove(session.session_id)
        except sqlite3.Error:
            # The placeholder stays; the next start finds and removes it.
            _log.exception("cannot undo", extra={"session_id": session.session_id})
        finally:
            self._roster.drop(session)

    async def _finish(self, ended: Session) -> None:
        try:
            await self._keep(ended)
            await self._destroy(ended)
            await self._store.gone(ended.session_id)
        except sqlite3.Error:
            # What the store missed is done again by the next start.
            _log.exception("cannot note", extra={"session_id": ended.session_id})
        finally:
            del self._running[ended.session_id]

    async def _keep(self, ended: Session) -> None:
        try:
            await self._store.save(ended)
            if ended.ended_by == "abandoned":
                await self._store.release_request(ended.session_id)
        except sqlite3.Error:
            _log.exception("no tombstone", extra={"session_id": ended.session_id})

    async def _destroy(self, session: Session) -> None:
        await destroy(self._engine, session.sandbox_id, session.record, self._clock)


async def destroy(engine: Engine, sandbox_id: str, record: str, clock: Clock) -> None:
    """Have a sandbox destroyed, however often it takes."""
    pause = 0.5
    while True:
        try:
            await engine.destroy(sandbox_id, record)
        except Exception:  # noqa: BLE001  # whatever it is, it must go
            _log.exception("sandbox not destroyed", extra={"sandbox_id": sandbox_id})
            await clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return
