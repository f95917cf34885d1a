"""Work that many wait for and that is done once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable
    from typing import Any

__all__ = ["Flights"]

T = TypeVar("T")


class Flights(Generic[T]):
    """One piece of work per key at a time; a waiter that leaves does not end it."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    async def join(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Return the result of the work under way for *key*, or begin it."""
        return await asyncio.shield(self.begin(key, work))

    def begin(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> asyncio.Task[T]:
        """Return the task of *key*, started if there is none; never cancel it."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(work())  # noqa: TID251 - `end` ends it
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    async def end(self) -> None:
        """Cancel what is still under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # whoever waits sees it; perhaps nobody does any more
