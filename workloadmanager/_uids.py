"""Own users for sandboxes: one each, and no two at a time share one."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from workloadmanager._errors import PoolExhaustedError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Uids", "default_range"]

# Above what systemd, Docker and Kubernetes hand out; if a user namespace does not
# reach so far, below what systemd gives to dynamic users.
_RANGES = ((1_900_000_000, 1_900_065_535), (40_000, 59_999))
_PAUSE = 5.0


class Uids:
    """The users of a range that are free; the one longest unused is taken first."""

    def __init__(self, first_and_last: tuple[int, int] | None) -> None:
        self._free: deque[int] = deque()
        if first_and_last is not None:
            first, last = first_and_last
            self._free.extend(range(first, last + 1))
        self._enabled = first_and_last is not None

    def take(self) -> int | None:
        """Return a user that nobody has; None: sandboxes have no own users.

        Raises:
            PoolExhaustedError: all are in use.
        """
        if not self._enabled:
            return None
        if not self._free:
            raise PoolExhaustedError(0, _PAUSE)
        return self._free.popleft()

    def hold(self, uid: int | None) -> None:
        """Take this very user, for a sandbox that has it already."""
        if uid is not None and uid in self._free:
            self._free.remove(uid)

    def give(self, uid: int | None) -> None:
        """Take a user back of whom no process is left."""
        if self._enabled and uid is not None and uid not in self._free:
            self._free.append(uid)


def default_range(uid_map: Path) -> tuple[int, int] | None:
    """Return the users to take if nothing was said; None: we are not root.

    *uid_map* is ``/proc/self/uid_map``: which users exist in our user namespace.
    Source: user_namespaces(7).
    """
    if os.geteuid() != 0:
        return None
    spans = [tuple(map(int, line.split())) for line in uid_map.read_text().splitlines()]
    for first, last in _RANGES:
        if any(start <= first and last < start + count for start, _, count in spans):
            return first, last
    return None
