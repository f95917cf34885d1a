"""A watch over the memory of all processes together."""

from __future__ import annotations

from picod.inside import kernel
from picod.inside.kept import ENDED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.kept import Kept
    from picod.inside.reaper import Reaper

_INTERVAL = 0.25
_IDLE = 4.0  # while nobody waits for anything


class Watchdog:
    """Ends the largest while all together hold more than *limit* bytes.

    Anonymous and shared memory count; files in the workspace have their own limit. What
    an interpreter still shares with the nursery counts once.
    """

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self.limit = 0
        self.next_look = 0.0

    def look(self, now: float) -> None:
        """Look if it is time; *now* is on the monotonic clock."""
        kept = self._reaper.keepers.values()
        if not kept:
            self.next_look = 0.0
            return
        busy = any(each.busy for each in kept)
        if not self.next_look or (busy and self.next_look > now + _INTERVAL):
            self.next_look = now + _INTERVAL  # the first of some: nothing to see yet
        if now < self.next_look:
            return
        self.next_look = now + (_INTERVAL if busy else _IDLE)
        held = self._held()
        excess = sum(held.values()) - self.limit
        for each in sorted(held, key=lambda each: -held[each]):
            if excess > 0:
                each.kill(ENDED)
            excess -= held[each]

    def _held(self) -> dict[Kept, int]:
        """Sum the memory beneath each keeper."""
        table = kernel.processes()
        shared = kernel.held(self._reaper.nursery)
        found = {}
        for pid, kept in self._reaper.keepers.items():
            sizes = {
                process.pid: kernel.held(process.pid)
                for process in kernel.descendants([pid], table)
            }
            if kept.forked and kept.pid in sizes:
                sizes[kept.pid] = max(0, sizes[kept.pid] - shared)
            found[kept] = sum(sizes.values())
        return found
