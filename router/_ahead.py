"""Lines to sandboxes that wait for a session, opened before anybody calls."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn

from router._errors import SandboxUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clock import Clock
    from router._sessions import Door
    from router._ways import Line, Way

__all__ = ["Ahead"]

# For how long, in seconds, a line is kept whose sandbox does not wait any more: its
# session, if it is one of ours, is known by then.
_LINGER: Final = 15.0
_SWEEP: Final = 5.0

_log = logging.getLogger("router")


class Ahead:
    """At most *most* lines that no call goes over: that is what `take` is for.

    Whoever takes one has a session, whose first call then finds the connection and
    its proofs made.
    """

    def __init__(self, way: Way, clock: Clock, most: int) -> None:
        self._way, self._clock, self._most = way, clock, most
        self._waiting: dict[Door, None] = {}
        self._lines: dict[Door, Line] = {}
        self._left: dict[Door, float] = {}  # when its sandbox ceased to wait
        self._news = asyncio.Event()
        self.taken = 0

    def __len__(self) -> int:
        return len(self._lines)

    def tell(self, doors: Iterable[Door]) -> None:
        """Take the WorkloadManager's word for which sandboxes wait now."""
        self._waiting = dict.fromkeys(doors)
        now = self._clock.monotonic()
        for door in self._lines:
            if door in self._waiting:
                self._left.pop(door, None)
            else:
                self._left.setdefault(door, now)
        self._news.set()

    def take(self, door: Door) -> Line | None:
        """Return the line to *door* if there is one; it is the caller's from now on."""
        line = self._lines.pop(door, None)
        self._left.pop(door, None)
        if line is not None:
            self.taken += 1
            self._news.set()
        return line

    async def dial(self) -> NoReturn:
        """Open lines to those that wait, and close all at the end."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                for door in [*self._waiting]:
                    await self._open(door)
        finally:
            for door in [*self._lines]:
                await self._close(door)

    async def sweep(self) -> NoReturn:
        """Close the lines that nobody took."""
        while True:
            await self._clock.sleep(_SWEEP)
            before = self._clock.monotonic() - _LINGER
            for door in [door for door, at in self._left.items() if at <= before]:
                await self._close(door)

    async def _open(self, door: Door) -> None:
        if door in self._lines:
            return
        while len(self._lines) >= self._most and self._left:
            await self._close(next(iter(self._left)))
        if len(self._lines) >= self._most:
            return
        try:
            line = await self._way.connect(door)
        except SandboxUnreachableError:  # said in the log; whoever calls tries again
            self._waiting.pop(door, None)
            return
        self._lines[door] = line
        if door not in self._waiting:  # while we opened it
            self._left[door] = self._clock.monotonic()
        line.dial()

    async def _close(self, door: Door) -> None:
        self._left.pop(door, None)
        if (line := self._lines.pop(door, None)) is not None:
            await line.aclose()
