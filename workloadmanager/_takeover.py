"""What an earlier process left: sessions that live on, and others that are cleared."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from workloadmanager._values import Session, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from clock import Clock
    from workloadmanager._endings import Endings
    from workloadmanager._engine import Activity, Engine
    from workloadmanager._store import Store

__all__ = ["take_over"]

_log = logging.getLogger(__name__)


async def take_over(
    store: Store,
    engine: Engine,
    endings: Endings,
    clock: Clock,
    adopted: Callable[[Session, Activity], None],
) -> None:
    """Adopt the sandboxes that live, and end what is left of all others.

    Each session whose sandbox lives goes to *adopted*. Sandboxes that waited for a
    session belong to nobody now.
    """

    async def one(session: Session) -> None:
        if session.state is State.STARTING:
            await endings.undo(session)
        elif session.state is State.ENDED:
            await asyncio.shield(endings.resume(session))
        elif session.expires_at <= clock.now():
            await asyncio.shield(endings.begin(session, "expired"))
        elif (activity := await engine.adopt(session)) is None:
            fault = "SANDBOX_UNREACHABLE"
            await asyncio.shield(endings.begin(session, "fault", fault))
        else:
            adopted(session, activity)
            fields = {name: getattr(session, name) for name in _NAMED}
            _log.info("sandbox adopted", extra=fields)

    sessions = await store.load()
    async with asyncio.TaskGroup() as tasks:
        for session in sessions:
            tasks.create_task(one(session))
    await engine.sweep({each.sandbox_id for each in sessions})


_NAMED = ("session_id", "sandbox_id")
