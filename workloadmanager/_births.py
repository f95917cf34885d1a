"""Who waits for sessions that are being made, and what if nobody does any more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workloadmanager._birth import Birth
from workloadmanager._errors import (
    RequestMismatchError,
    SandboxStartError,
    SessionExpiredError,
)
from workloadmanager._store import REMEMBERED
from workloadmanager._values import Session, Start, State
from workloadmanager._wishes import terms

if TYPE_CHECKING:
    from clock import Clock
    from workloadmanager._endings import Endings
    from workloadmanager._maker import Maker
    from workloadmanager._roster import Roster
    from workloadmanager._store import Store
    from workloadmanager._templates import Template
    from workloadmanager._values import Wish

__all__ = ["Births"]

_Key = tuple[str, str, str]


@dataclass(slots=True, kw_only=True, eq=False)
class Births:
    """Has sessions made, one for each wish, whoever goes away meanwhile."""

    maker: Maker
    store: Store
    roster: Roster
    endings: Endings
    clock: Clock
    _by_request: dict[_Key, Birth] = field(default_factory=dict, init=False)

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
        birth = self.maker.under_way.get(session.session_id)
        if birth is not None:
            birth.stop(why)
            await birth.over.wait()

    def died(self, session: Session, why: str) -> None:
        """Note that the sandbox of a session being made died.

        One that was made ahead does not take its session then, and another is made.
        """
        birth = self.maker.under_way.get(session.session_id)
        if birth is not None and session.start is not Start.WARM:
            birth.stop(why)

    def stop_all(self) -> None:
        """Undo all that is being made."""
        for birth in list(self.maker.under_way.values()):
            birth.stop("the service is going down")

    def _shared(self, wish: Wish) -> Birth | None:
        birth = self._by_request.get(_key(wish)) if wish.request_id else None
        if birth is None or birth.stopped_by or birth.outcome.done():
            return None
        return birth

    def _begin(self, wish: Wish, template: Template, tasks: asyncio.TaskGroup) -> Birth:
        birth = Birth(asyncio.get_running_loop().create_future())
        birth.outcome.add_done_callback(_seen)
        if wish.request_id:
            self._by_request[_key(wish)] = birth
        birth.task = tasks.create_task(self._run(birth, wish, template))
        return birth

    def _abandon(self, birth: Birth) -> None:
        if not birth.outcome.done():
            birth.stop("the caller went away")
        elif birth.made is not None:
            session = self.roster.find(birth.made.session_id)
            if session is not None:
                self.endings.begin(session, "abandoned")

    async def _run(self, birth: Birth, wish: Wish, template: Template) -> None:
        """Bring *birth* to its outcome; raises nothing."""
        try:
            session = await self._earlier(wish) or await self.maker.make(
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

    def _conclude(self, birth: Birth, outcome: Session | Exception) -> None:
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


def _key(wish: Wish) -> _Key:
    return wish.owner.issuer, wish.owner.subject, wish.request_id


def _seen(outcome: asyncio.Future[Session]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not outcome.cancelled():
        outcome.exception()
