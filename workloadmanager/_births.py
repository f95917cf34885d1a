"""How a session comes to be: placeholder, sandbox, ready; or nothing is left of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from workloadmanager import _ids
from workloadmanager._engine import Binding
from workloadmanager._errors import (
    PoolExhaustedError,
    RequestMismatchError,
    SandboxStartError,
    SessionExpiredError,
)
from workloadmanager._store import REMEMBERED
from workloadmanager._values import Session, State, milliseconds
from workloadmanager._wishes import terms

if TYPE_CHECKING:
    from collections.abc import Callable

    from clock import Clock
    from workloadmanager._endings import Endings
    from workloadmanager._engine import Engine, Sandbox
    from workloadmanager._roster import Roster
    from workloadmanager._store import Store
    from workloadmanager._templates import Template
    from workloadmanager._values import Wish

__all__ = ["Births"]

# A sandbox ends itself only when nobody else did, this long after the last moment
# to which its session could have been extended.
_MARGIN = timedelta(seconds=30)

_log = logging.getLogger(__name__)

_Key = tuple[str, str, str]


@dataclass(slots=True, eq=False)
class _Birth:
    """One session being made, for all who wait for it."""

    outcome: asyncio.Future[Session]
    waiting: int = 0
    task: asyncio.Task[None] | None = None
    made: Session | None = None
    stopped_by: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self, why: str) -> None:
        """Undo it, once: what undoes it must not be stopped in turn."""
        if not self.stopped_by:
            self.stopped_by = why
            if self.task is not None:
                self.task.cancel()


@dataclass(slots=True, kw_only=True, eq=False)
class Births:
    """Makes sessions. Everything on the way is undone if any of it fails."""

    store: Store
    engine: Engine
    roster: Roster
    endings: Endings
    clock: Clock
    limit: int
    born: Callable[[Session], None]
    _by_request: dict[_Key, _Birth] = field(default_factory=dict, init=False)
    _by_session: dict[str, _Birth] = field(default_factory=dict, init=False)

    async def create(
        self, wish: Wish, template: Template, tasks: asyncio.TaskGroup
    ) -> Session:
        """Return the session of *wish* once it is ready.

        Callers with the same request id share one. When the last who waits for it
        goes away, it is undone.

        Raises:
            WorkloadManagerError: there is no session, and nothing is left of it.
        """
        terms(wish, template, self.clock.now())  # refused before anything is begun
        birth = self._shared(wish) or self._begin(wish, template, tasks)
        birth.waiting += 1
        try:
            return await asyncio.shield(birth.outcome)
        except asyncio.CancelledError:
            if birth.waiting == 1:
                self._abandon(birth)
            raise
        finally:
            birth.waiting -= 1

    async def stop(self, session: Session, why: str) -> None:
        """Undo a session that is still being made; return when nothing is left."""
        birth = self._by_session.get(session.session_id)
        if birth is not None:
            birth.stop(why)
            await birth.over.wait()

    def died(self, session: Session, why: str) -> None:
        """Note that the sandbox of a session being made died."""
        if birth := self._by_session.get(session.session_id):
            birth.stop(why)

    def stop_all(self) -> None:
        """Undo all that is being made."""
        for birth in list(self._by_session.values()):
            birth.stop("the service is going down")

    def _shared(self, wish: Wish) -> _Birth | None:
        birth = self._by_request.get(_key(wish)) if wish.request_id else None
        if birth is None or birth.stopped_by or birth.outcome.done():
            return None
        return birth

    def _begin(
        self, wish: Wish, template: Template, tasks: asyncio.TaskGroup
    ) -> _Birth:
        birth = _Birth(asyncio.get_running_loop().create_future())
        birth.outcome.add_done_callback(_seen)
        if wish.request_id:
            self._by_request[_key(wish)] = birth
        birth.task = tasks.create_task(self._run(birth, wish, template))
        return birth

    def _abandon(self, birth: _Birth) -> None:
        if not birth.outcome.done():
            birth.stop("the caller went away")
        elif birth.made is not None:
            session = self.roster.find(birth.made.session_id)
            if session is not None:
                self.endings.begin(session, "abandoned")

    async def _run(self, birth: _Birth, wish: Wish, template: Template) -> None:
        """Bring *birth* to its outcome; raises nothing."""
        try:
            session = await self._earlier(wish) or await self._make(
                birth, wish, template
            )
        except asyncio.CancelledError:
            why = birth.stopped_by or "the service is going down"
            self._conclude(birth, SandboxStartError(why))
        except Exception as error:  # noqa: BLE001  # goes to those who wait
            self._conclude(birth, error)
        else:
            self._conclude(birth, session)
        finally:
            if self._by_request.get(_key(wish)) is birth:
                del self._by_request[_key(wish)]
            birth.over.set()

    def _conclude(self, birth: _Birth, outcome: Session | Exception) -> None:
        if birth.outcome.done():
            return
        if isinstance(outcome, Session):
            birth.outcome.set_result(outcome)
        else:
            birth.outcome.set_exception(outcome)

    async def _earlier(self, wish: Wish) -> Session | None:
        """Return the session that this request id has made already.

        Raises:
            SessionExpiredError: it has ended.
            RequestMismatchError: it was for something else.
        """
        if not wish.request_id:
            return None
        since = self.clock.now() - REMEMBERED
        found = await self.store.find_request(wish.owner, wish.request_id, since)
        if found is None:
            return None
        if (found.namespace, found.template) != (wish.namespace, wish.template):
            raise RequestMismatchError(found)
        present = self.roster.find(found.session_id)
        if present is None or present.state is not State.READY:
            raise SessionExpiredError(found)
        return present

    async def _make(self, birth: _Birth, wish: Wish, template: Template) -> Session:
        if len(self.roster) + self.endings.under_way >= self.limit:
            raise PoolExhaustedError(self.limit, self._next_end())
        session = self._placeholder(wish, template)
        self._by_session[session.session_id] = birth
        self.roster.put(session)
        try:
            kept = self.store.insert(session, wish.request_id)
            kept.add_done_callback(_seen)
            sandbox = await self.engine.make(
                session.sandbox_id, template, _binding(session, wish, template)
            )
            await kept
            ready = self._ready(session, sandbox)
            await self.store.save(ready)
        except BaseException as error:
            birth.stopped_by = birth.stopped_by or "it failed"
            _log.warning(
                "session not made",
                extra={
                    "session_id": session.session_id,
                    "sandbox_id": session.sandbox_id,
                    "reason": getattr(error, "detail", birth.stopped_by) or str(error),
                },
            )
            await self.endings.undo(session)
            raise
        finally:
            del self._by_session[session.session_id]
        birth.made = ready
        self.born(ready)
        return ready

    def _ready(self, session: Session, sandbox: Sandbox) -> Session:
        return replace(
            session,
            state=State.READY,
            address=sandbox.address,
            spiffe_id=sandbox.spiffe_id,
            isolation=sandbox.isolation,
            last_activity=milliseconds(self.clock.now()),
            record=sandbox.record,
        )

    def _placeholder(self, wish: Wish, template: Template) -> Session:
        now = milliseconds(self.clock.now())
        expires_at, latest_expiry, idle_timeout = terms(wish, template, now)
        return Session(
            session_id=_ids.session_id(),
            sandbox_id=self.engine.reserve(),
            namespace=wish.namespace,
            template=template.name,
            owner=wish.owner,
            state=State.STARTING,
            created_at=now,
            expires_at=expires_at,
            latest_expiry=latest_expiry,
            idle_timeout=idle_timeout,
            last_activity=now,
        )

    def _next_end(self) -> float:
        """Return after how many seconds it is worth asking again: 1 to 30."""
        ends = [min(each.expires_at, each.idle_at) for each in self.roster]
        if not ends:
            return 1.0
        left = (min(ends) - self.clock.now()).total_seconds()
        return min(max(left, 1.0), 30.0)


def _binding(session: Session, wish: Wish, template: Template) -> Binding:
    return Binding(
        session_id=session.session_id,
        owner=session.owner,
        expires_at=session.latest_expiry + _MARGIN,
        environment={**template.environment, **wish.environment},
    )


def _key(wish: Wish) -> _Key:
    return wish.owner.issuer, wish.owner.subject, wish.request_id


def _seen(outcome: asyncio.Future[Any]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not outcome.cancelled():
        outcome.exception()
