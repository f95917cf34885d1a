"""Own users for sandboxes: one each, and no two at a time share one."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections import deque
from typing import TYPE_CHECKING

from workloadmanager._errors import PoolExhaustedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from pathlib import Path

__all__ = ["Uids", "default_range"]

# Above what systemd, Docker and Kubernetes hand out; if a user namespace does not
# reach so far, below what systemd gives to dynamic users.
_RANGES = ((1_900_000_000, 1_900_065_535), (40_000, 59_999))
_PAUSE = 5.0
_MOST_AHEAD, _PART = 64, 16  # of a large range, and of a small one
_MOST_LOOKS = 64


class Uids:
    """The users of a range that nobody on this machine runs a sandbox as.

    Another WorkloadManager may have the same range: each user is leased by a name
    that only one process can have (an abstract socket), and one who has processes
    is left alone. The user longest unused is taken first. *busy* tells who has
    processes; as that takes its time, some users are looked at ahead.
    """

    def __init__(
        self,
        first_and_last: tuple[int, int] | None,
        *,
        begin: Callable[[int], int] = secrets.randbelow,
        busy: Callable[[], Awaitable[Collection[int]]],
    ) -> None:
        self._free: deque[int] = deque()
        if first_and_last is not None:
            first, last = first_and_last
            self._free.extend(range(first, last + 1))
            self._free.rotate(-begin(len(self._free)))
        self._enabled = first_and_last is not None
        self._ahead = max(1, min(_MOST_AHEAD, len(self._free) // _PART))
        self._busy = busy
        self._idle: deque[int] = deque()
        self._looking = asyncio.Lock()
        self._leases: dict[int, socket.socket] = {}

    async def take(self) -> int | None:
        """Return a user whom nobody has; None: sandboxes have no own users.

        Raises:
            PoolExhaustedError: all are in use.
        """
        if not self._enabled:
            return None
        async with self._looking:
            if not self._idle:
                await self._look()
            return self._idle.popleft()

    def hold(self, uid: int | None) -> bool:
        """Say whether this user is ours, taking it if nobody else has it."""
        if uid is None or not (uid in self._leases or self._lease(uid)):
            return False
        if uid in self._free:
            self._free.remove(uid)
        return True

    def give(self, uid: int | None) -> None:
        """Take a user back of whom no process is left."""
        if uid is not None and uid in self._leases:
            self._leases.pop(uid).close()
            if self._enabled:
                self._free.append(uid)

    def close(self) -> None:
        """Give up all leases; their users' processes keep others away."""
        for lease in self._leases.values():
            lease.close()
        self._leases.clear()

    async def _look(self) -> None:
        """Lease some users who have no processes.

        Raises:
            PoolExhaustedError: there are none.
        """
        for _ in range(_MOST_LOOKS):
            leased = self._lease_some()
            try:
                busy = await self._busy() if leased else ()
            except BaseException:
                for uid in leased:
                    self.give(uid)
                raise
            for uid in leased:
                if uid in busy:
                    self.give(uid)
                else:
                    self._idle.append(uid)
            if self._idle:
                return
        raise PoolExhaustedError(len(self._leases), _PAUSE)

    def _lease_some(self) -> list[int]:
        leased: list[int] = []
        for _ in range(len(self._free)):
            if len(leased) == self._ahead:
                break
            uid = self._free.popleft()
            if self._lease(uid):
                leased.append(uid)
            else:
                self._free.append(uid)
        return leased

    def _lease(self, uid: int) -> bool:
        lease = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lease.bind(f"\0cubemesh-sandbox-user-{uid}")
        except OSError:
            lease.close()
            return False
        self._leases[uid] = lease
        return True


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
