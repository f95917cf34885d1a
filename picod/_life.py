"""Why a sandbox ends without being asked: three jobs that run until cancelled."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from clock import SYSTEM, Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from picod._sandbox import Sandbox

__all__ = ["end_at_expiry", "end_on_fault", "end_when_orphaned"]

_log = logging.getLogger(__name__)

# A sleep is cut into pieces, so that a wall clock set forward is noticed.
_LONGEST_SLEEP = 15.0


class _Mortal(Protocol):
    @property
    def fault(self) -> str | None: ...

    @property
    def fault_reason(self) -> str: ...

    async def wait_ended(self) -> object: ...


async def end_at_expiry(sandbox: Sandbox, *, clock: Clock = SYSTEM) -> None:
    """End *sandbox* at the time that its binding tells."""
    expires_at = (await sandbox.bound()).expires_at
    while (left := (expires_at - clock.now()).total_seconds()) > 0:
        await clock.sleep(min(left, _LONGEST_SLEEP))
    _log.warning("sandbox expired", extra={"expires_at": expires_at.isoformat()})
    sandbox.end("expired")


async def end_when_orphaned(
    sandbox: Sandbox,
    connections: Callable[[], int],
    *,
    timeout: float,  # noqa: ASYNC109  # how long nobody may ask, not how long we run
    clock: Clock = SYSTEM,
) -> None:
    """End *sandbox* when nobody held its control door for *timeout* seconds.

    A connection counts while it is open, and a call at the moment it comes.
    """
    while (left := sandbox.last_control + timeout - clock.monotonic()) > 0:
        await clock.sleep(min(left, timeout / 4, _LONGEST_SLEEP))
        if connections():
            sandbox.control_seen()
    _log.warning("sandbox orphaned", extra={"timeout": timeout})
    sandbox.end("orphaned")


async def end_on_fault(
    sandbox: Sandbox,
    runner: _Mortal,
    *,
    unwell: Callable[[str], None] = lambda _: None,
    linger: float = 5.0,
    clock: Clock = SYSTEM,
) -> None:
    """End *sandbox* when its runner is gone.

    *unwell* is told at once; then the fault can be asked for until somebody did, at
    most *linger* seconds.
    """
    await runner.wait_ended()
    if sandbox.ended.is_set():
        return
    sandbox.fail(runner.fault_reason)
    unwell("runner fault")
    _log.error(
        "runner fault",
        extra={"reason": sandbox.last_fault, "detail": runner.fault or "it ended"},
    )
    told = asyncio.ensure_future(sandbox.fault_told.wait())
    late = asyncio.ensure_future(clock.sleep(linger))
    try:
        await asyncio.wait((told, late), return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
        late.cancel()
    sandbox.end("runner fault")
