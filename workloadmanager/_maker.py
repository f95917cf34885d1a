"""How one session is made: placeholder, sandbox, ready; or nothing is left of it."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from workloadmanager import _ids
from workloadmanager._engine import Binding
from workloadmanager._errors import BindingError, PoolExhaustedError
from workloadmanager._values import Session, Start, State, milliseconds
from workloadmanager._wishes import terms

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from clock import Clock
    from workloadmanager._birth import Birth
    from workloadmanager._endings import Endings
    from workloadmanager._engine import Engine, Sandbox
    from workloadmanager._pools import Pools
    from workloadmanager._roster import Roster
    from workloadmanager._store import Store
    from workloadmanager._templates import Template
    from workloadmanager._values import Wish

__all__ = ["Maker"]

# A sandbox ends itself only when nobody else did, this long after the last moment
# to which its session could have been extended.
_MARGIN = timedelta(seconds=30)

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Maker:
    """Makes sessions; *under_way* are those that are being made, by session id."""

    store: Store
    engine: Engine
    roster: Roster
    endings: Endings
    pools: Pools
    clock: Clock
    limit: int
    born: Callable[[Session], None]
    under_way: dict[str, Birth] = field(default_factory=dict, init=False)
    starts: Counter[Start] = field(default_factory=Counter, init=False)
    seconds: defaultdict[Start, float] = field(
        default_factory=lambda: defaultdict(float), init=False
    )

    async def make(self, birth: Birth, wish: Wish, template: Template) -> Session:
        """Make the session of *birth*, with a sandbox that is ready if there is one.

        Raises:
            WorkloadManagerError: there is none, and nothing is left of it.
        """
        if len(self.roster) + self.endings.under_way >= self.limit:
            raise PoolExhaustedError(self.limit, self._next_end())
        if (blank := self.pools.claim(template)) is not None:
            try:
                return await self._bear(birth, wish, template, blank)
            except BindingError:
                if birth.stopped_by:
                    raise
        return await self._bear(birth, wish, template, None)

    async def _bear(
        self, birth: Birth, wish: Wish, template: Template, blank: Sandbox | None
    ) -> Session:
        """Make the session with *blank*, or with a sandbox made for it."""
        began = self.clock.monotonic()
        session = self._placeholder(wish, template, blank)
        binding = _binding(session, wish, template)
        self.under_way[session.session_id] = birth
        self.roster.put(session)
        try:
            kept = self.store.insert(session, wish.request_id)
            kept.add_done_callback(_seen)
            if blank is None:
                sandbox = await self._made(session.sandbox_id, template, binding)
            else:
                sandbox = blank
                await self.engine.bind(blank.sandbox_id, binding)
            await kept
            ready = self._ready(session, sandbox)
            await self.store.save(ready)
        except BaseException as error:
            await self._undo(birth, session, error)
            raise
        finally:
            del self.under_way[session.session_id]
        birth.made = ready
        self._count(ready, self.clock.monotonic() - began)
        self.born(ready)
        return ready

    async def _made(
        self, sandbox_id: str, template: Template, binding: Binding
    ) -> Sandbox:
        await self.pools.make_room()
        async with self.pools.urgent():
            return await self.engine.make(sandbox_id, template, binding)

    async def _undo(self, birth: Birth, session: Session, error: BaseException) -> None:
        birth.undoing = True
        _log.warning(
            "session not made",
            extra={
                "session_id": session.session_id,
                "sandbox_id": session.sandbox_id,
                "reason": getattr(error, "detail", birth.stopped_by) or str(error),
            },
        )
        await self.endings.undo(session)
        birth.undoing = False

    def _count(self, session: Session, seconds: float) -> None:
        if session.start is not None:
            self.starts[session.start] += 1
            self.seconds[session.start] += seconds

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

    def _placeholder(
        self, wish: Wish, template: Template, blank: Sandbox | None
    ) -> Session:
        now = milliseconds(self.clock.now())
        expires_at, latest_expiry, idle_timeout = terms(wish, template, now)
        return Session(
            session_id=_ids.session_id(),
            sandbox_id=blank.sandbox_id if blank else self.engine.reserve(),
            namespace=wish.namespace,
            template=template.name,
            owner=wish.owner,
            state=State.STARTING,
            created_at=now,
            expires_at=expires_at,
            latest_expiry=latest_expiry,
            idle_timeout=idle_timeout,
            last_activity=now,
            start=Start.WARM if blank else Start.COLD,
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
        contents=wish.contents,
    )


def _seen(kept: asyncio.Future[None]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not kept.cancelled():
        kept.exception()
