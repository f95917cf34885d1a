"""Waiting for a change or for time to pass."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clock import Clock

__all__ = ["Ear"]

_QUIET = 0.01  # seconds without a change, after which a burst is over
_MAX_BURST = 0.1  # seconds after which a burst is looked at all the same


class Ear:
    """Waits for a change or for time to pass, without a task of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard = False
        self._waiting: asyncio.Timeout | None = None

    def hear(self) -> None:
        """Note a change; ends a `listen`."""
        self._heard = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(0)

    async def listen(self, seconds: float) -> None:
        """Return after *seconds*, or once a burst of changes is over."""
        if not self._heard:
            await self._sleep(seconds)
        latest = self._clock.monotonic() + _MAX_BURST
        while self._heard and self._clock.monotonic() < latest:
            self._heard = False
            await self._clock.sleep(_QUIET)
        self._heard = False

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(None) as self._waiting:
                await self._clock.sleep(seconds)
        except TimeoutError:
            pass  # heard something
        finally:
            self._waiting = None
