"""A watch over what all processes use together, where the kernel itself keeps none."""

from __future__ import annotations

import os

from picod._values import number, text
from picod.inside import kernel
from picod.inside.kept import MEMORY_LIMIT, SPACE_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.files import Transfer, Work
    from picod.inside.kept import Kept
    from picod.inside.reaper import Reaper

_INTERVAL = 0.25
_IDLE = 4.0  # while nobody waits for anything


class Watchdog:
    """Ends the largest while all together use more than there is.

    Memory is what processes hold for themselves, and what lies in tmpfs or is shared,
    whichever is more: both are partly the same. What an interpreter still shares with
    the nursery counts once.
    """

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._memory = self._inodes = 0  # the limits; 0: not ours to keep
        self._places: list[bytes] = []
        self._kills = {MEMORY_LIMIT: 0, SPACE_LIMIT: 0}
        self._full = 0
        self.next_look = 0.0

    def learn(self, values: dict[bytes, Value]) -> None:
        """Take the limits from HELLO."""
        if number(values, b"watch"):
            self._memory = number(values, b"memory")
        if number(values, b"isolated"):  # else the folders are of the host's disk
            self._inodes = number(values, b"inodes")
            folders = text(values, b"workspace"), text(values, b"scratch")
            self._places = [*folders, b"/dev/shm"]

    def look(self, now: float) -> None:
        """Look if it is time; *now* is on the monotonic clock."""
        kept = [each for each in self._reaper.keepers.values() if each.taken]
        if not kept:
            self.next_look = 0.0
            return
        busy = any(each.busy for each in kept)
        if not self.next_look or (busy and self.next_look > now + _INTERVAL):
            self.next_look = now + _INTERVAL  # the first of some: nothing to see yet
        if now < self.next_look:
            return
        self.next_look = now + (_INTERVAL if busy else _IDLE)
        files = self._look_at_files()
        if self._memory:
            self._look_at_memory(files)

    def tell(self, call: Transfer) -> Work:
        """Answer how often a limit was reached."""
        self._look_at_files()
        call.done(
            {
                b"memory_kills": self._kills[MEMORY_LIMIT],
                b"space_kills": self._kills[SPACE_LIMIT],
                b"full": self._full,
            }
        )
        yield False

    def _look_at_files(self) -> int:
        """Return how many bytes the files take."""
        used = 0
        for place in self._places:
            there = os.statvfs(place)
            used += (there.f_blocks - there.f_bfree) * there.f_frsize
            entries = there.f_files - there.f_ffree
            if not there.f_bfree or (entries and not there.f_ffree):
                self._full += 1
            if entries > self._inodes:
                for each in list(self._reaper.keepers.values()):
                    self._kill(each, SPACE_LIMIT)
        return used

    def _look_at_memory(self, files: int) -> None:
        held = self._held()
        own = sum(mine for mine, _ in held.values())
        shared = sum(ours for _, ours in held.values())
        excess = own + max(shared, files) - self._memory
        for each in sorted(held, key=lambda each: -sum(held[each])):
            if excess > 0:
                self._kill(each, MEMORY_LIMIT)
            excess -= sum(held[each])

    def _held(self) -> dict[Kept, tuple[int, int]]:
        """Sum the memory beneath each keeper."""
        table = kernel.processes()
        common = sum(kernel.held(self._reaper.nursery)) if self._reaper.nursery else 0
        found = {}
        for pid, kept in self._reaper.keepers.items():
            own = shared = 0
            for process in kernel.descendants([pid], table):
                mine, ours = kernel.held(process.pid)
                if kept.forked and process.pid == kept.pid:
                    mine = max(0, mine - common)
                own, shared = own + mine, shared + ours
            found[kept] = own, shared
        return found

    def _kill(self, kept: Kept, cause: int) -> None:
        self._kills[cause] += 1
        kept.kill(cause)
