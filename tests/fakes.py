"""Fakes: small true implementations of our own protocols."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine


class FakeClock:
    """A clock that moves only when a test moves it."""

    def __init__(self, now: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._start = self._now = now
        self._wrong = timedelta()
        self._sleepers: list[tuple[datetime, int, asyncio.Event]] = []
        self._numbers = itertools.count()
        self._arrived = asyncio.Condition()

    def now(self) -> datetime:
        return self._now + self._wrong

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    async def sleep(self, seconds: float) -> None:
        wake = asyncio.Event()
        async with self._arrived:
            entry = (self._now + timedelta(seconds=seconds), next(self._numbers), wake)
            heapq.heappush(self._sleepers, entry)
            self._arrived.notify_all()
        try:
            await wake.wait()
        finally:
            if entry in self._sleepers:
                self._sleepers.remove(entry)
                heapq.heapify(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Wait until somebody sleeps, then move time and wake who is due."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._sleepers)
            self._now += timedelta(seconds=seconds)
            while self._sleepers and self._sleepers[0][0] <= self._now:
                heapq.heappop(self._sleepers)[2].set()

    def jump(self, seconds: float) -> None:
        """Move the time without waking anybody before the next `advance`."""
        self._now += timedelta(seconds=seconds)

    def set_wall(self, seconds: float) -> None:
        """Set the wall time only: sleepers and `monotonic` do not notice."""
        self._wrong += timedelta(seconds=seconds)


@asynccontextmanager
async def running(job: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run *job* while the block runs; its failure is the test's failure."""
    task = asyncio.create_task(job)
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    """Let things happen until *condition* holds; the caller sets the time limit."""
    while not condition():
        await asyncio.sleep(0.001)
