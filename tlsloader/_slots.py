"""A bounded number of places that slow ones and crowds cannot keep."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Slots"]


class Slots:
    """At most *most* places, for tasks that should be quick.

    Groups take turns, whatever their size, so that a crowd of one keeps nobody of
    another waiting; within its group the newest goes first. While somebody waits, a
    place that was held for longer than *patience* seconds is given to another: who
    held it goes on without, since it takes none of our time while it waits itself.
    """

    def __init__(self, most: int, *, patience: float) -> None:
        self._free = most
        self._patience = patience
        self._waiting: OrderedDict[str, list[asyncio.Future[None]]] = OrderedDict()
        self._since: dict[object, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def place(self, group: str) -> AsyncIterator[None]:
        """Hold a place while the block runs, or for a while of it."""
        await self._take(group)
        place = object()
        self._since[place] = asyncio.get_running_loop().time()
        self._watch()
        try:
            yield
        finally:
            if self._since.pop(place, None) is not None:
                self._give()

    async def _take(self, group: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, []).append(turn)
        self._watch()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()
            else:
                self._forget(group, turn)
            raise

    def _forget(self, group: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(group, [])
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(group, None)

    def _give(self) -> None:
        """Hand a place to the newest of the group whose turn it is."""
        while self._waiting:
            group, turns = self._waiting.popitem(last=False)
            turn = turns.pop()
            if turns:
                self._waiting[group] = turns  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _watch(self) -> None:
        """While somebody waits, look when the next place will have been held enough."""
        if self._timer is None and self._waiting and self._since:
            loop = asyncio.get_running_loop()
            oldest = next(iter(self._since.values()))
            left = max(0.0, oldest + self._patience - loop.time())
            self._timer = loop.call_later(left, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for place, since in tuple(self._since.items()):
            if not self._waiting or since + self._patience > now:
                break
            del self._since[place]
            self._give()
        self._watch()
