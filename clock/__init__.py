"""Time as a dependency: what the clock says, and waiting for it to move."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["SYSTEM", "Clock"]


class Clock(Protocol):
    """Tell the time and wait; tests pass a clock they move by hand."""

    def now(self) -> datetime:
        """Return the wall time, timezone-aware, in UTC; it may jump."""

    def monotonic(self) -> float:
        """Return seconds since some fixed instant; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return once *seconds* have passed on this clock."""


class _SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM: Clock = _SystemClock()
