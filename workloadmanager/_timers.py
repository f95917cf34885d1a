"""Deadlines kept to the moment: a heap and one job, however many there are."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from clock import SYSTEM, Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

__all__ = ["Timers", "sleep_unless"]

K = TypeVar("K")

# The wall clock may be set while we sleep; look again at least this often.
_LONGEST_SLEEP = timedelta(seconds=30)


class Timers(Generic[K]):
    """One deadline per key; setting it again moves it."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._deadlines: dict[K, datetime] = {}
        self._heap: list[tuple[datetime, int, K]] = []
        self._numbers = itertools.count()
        self._sooner = asyncio.Event()

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, key: K, at: datetime) -> None:
        """Let *key* be due at *at*."""
        self._deadlines[key] = at
        entry = (at, next(self._numbers), key)
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._sooner.set()
        if len(self._heap) > 2 * len(self._deadlines) + 64:
            self._tidy()

    def drop(self, key: K) -> None:
        """Forget *key*; unknown ones are fine."""
        self._deadlines.pop(key, None)

    async def due(self) -> AsyncIterator[K]:
        """Yield each key when it is due, once, for ever."""
        while True:
            self._sooner.clear()
            now = self._clock.now()
            while self._heap and self._heap[0][0] <= now:
                at, _, key = heapq.heappop(self._heap)
                if self._deadlines.get(key) == at:
                    del self._deadlines[key]
                    yield key
            await self._sleep()

    def _tidy(self) -> None:
        self._heap = [(at, n, k) for at, n, k in self._heap if self._is_set(k, at)]
        heapq.heapify(self._heap)

    def _is_set(self, key: K, at: datetime) -> bool:
        return self._deadlines.get(key) == at

    async def _sleep(self) -> None:
        """Return at the next deadline, or as soon as there is a sooner one."""
        wait = _LONGEST_SLEEP
        if self._heap:
            wait = min(wait, self._heap[0][0] - self._clock.now())
        if self._sooner.is_set() or wait <= timedelta(0):
            return
        await sleep_unless(self._sooner, wait.total_seconds(), self._clock)


async def sleep_unless(event: asyncio.Event, seconds: float, clock: Clock) -> None:
    """Return after *seconds*, or as soon as *event* is set."""
    async with asyncio.TaskGroup() as tasks:
        both = {
            tasks.create_task(clock.sleep(seconds)),
            tasks.create_task(event.wait()),
        }
        _, rest = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
