"""Whether a service can still prove who it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from clock import SYSTEM

if TYPE_CHECKING:
    from clock import Clock
    from serving._health import Health
    from tlsloader import Source

__all__ = ["follow_identity"]

_EXPIRED = "our identity is not valid now"
_LOOK = 1.0


async def follow_identity(
    health: Health, source: Source, clock: Clock = SYSTEM
) -> NoReturn:
    """Be not ready outside the dates of the last good identity of *source*.

    Looks each second, so it notices a wall clock that was set, too; until cancelled.
    """
    while True:
        if source.current().covers(clock.now()):
            health.release(_EXPIRED)
        else:
            health.hold(_EXPIRED)
        await clock.sleep(_LOOK)
