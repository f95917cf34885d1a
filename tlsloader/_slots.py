"""A bounded number of places that slow ones cannot keep."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Slots"]


class Slots:
    """At most *most* places, for tasks that should be quick.

    The newest waits least: a crowd that came before, and says nothing, does not stand
    in its way. While somebody waits, a task that has held its place for longer than
    *patience* seconds is cancelled, and *displaced* is called.
    """

    def __init__(
        self, most: int, *, patience: float, displaced: Callable[[], None]
    ) -> None:
        self._free = most
        self._patience = patience
        self._displaced = displaced
        self._waiting: list[asyncio.Future[None]] = []
        self._since: dict[asyncio.Task[object], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place while the block runs; may be cancelled for being slow."""
        await self._take()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._since[task] = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._since.pop(task, None)
            self._give()

    async def _take(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._look()
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._give()
            raise

    def _give(self) -> None:
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _look(self) -> None:
        """Cancel those who are too slow, and look again when the next one may be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        for task, since in tuple(self._since.items())[: len(self._waiting)]:
            left = since + self._patience - loop.time()
            if left > 0:
                self._timer = loop.call_later(left, self._look)
                return
            del self._since[task]
            task.cancel()
            self._displaced()
        if self._waiting:
            self._timer = loop.call_later(self._patience, self._look)
