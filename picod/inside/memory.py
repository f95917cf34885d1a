"""A watch over the memory of all processes together."""

from __future__ import annotations

import os

from picod.inside import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.reaper import Reaper

_INTERVAL = 0.25
_KIB = 1024


class Watchdog:
    """Ends all commands when together they hold more than *limit* bytes.

    Anonymous and shared memory count; files in the workspace have their own limit.
    """

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self.limit = 0
        self.next_look = 0.0

    def look(self, now: float) -> None:
        """Look if it is time; *now* is on the monotonic clock."""
        if not self._reaper.keepers:
            self.next_look = 0.0
            return
        if not self.next_look:  # the first command of some: nothing to see yet
            self.next_look = now + _INTERVAL
        if now < self.next_look:
            return
        self.next_look = now + _INTERVAL
        table = kernel.processes()
        below = kernel.descendants(self._reaper.keepers, table)
        if sum(_held(process.pid) for process in below) > self.limit:
            for command in list(self._reaper.keepers.values()):
                command.kill(0)


def _held(pid: int) -> int:
    try:
        descriptor = os.open(f"/proc/{pid}/status", os.O_RDONLY)
    except OSError:
        return 0
    try:
        lines = os.read(descriptor, 4096).split(b"\n")
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return sum(
        int(line.split()[1]) * _KIB
        for line in lines
        if line.startswith((b"RssAnon:", b"RssShmem:"))
    )
