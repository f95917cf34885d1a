"""All processes of this machine at one moment, and which of them belong together."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workloadmanager._process import PROC, STARTTIME, Mark, Process, stat_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["Census", "Registry", "end_all"]

_PPID, _PGRP, _SESSION, _FLAGS = 1, 2, 3, 6  # behind the name
_KERNEL_THREAD: Final = 0x00200000
_ROOT: Final = 0

_Pids = dict[int, list[int]]


@dataclass(frozen=True, slots=True)
class Census:
    """Who there is, by number; and by parent, by group or session, and by user."""

    marks: Mapping[int, Mark]
    children: Mapping[int, Collection[int]]
    bands: Mapping[int, Collection[int]]
    users: Mapping[int, Collection[int]]

    @classmethod
    def take(cls) -> Census:
        """Look at every process. Blocks, some milliseconds."""
        marks: dict[int, Mark] = {}
        children, bands, users = (defaultdict[int, list[int]](list) for _ in range(3))
        for entry in os.scandir(PROC):
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            if (stat := stat_of(pid)) is None or int(stat[_FLAGS]) & _KERNEL_THREAD:
                continue
            marks[pid] = Mark(pid, int(stat[STARTTIME]))
            children[int(stat[_PPID])].append(pid)
            for band in {int(stat[_PGRP]), int(stat[_SESSION])}:
                bands[band].append(pid)
            for uid in _uids(pid):
                users[uid].append(pid)
        return cls(marks, children, bands, users)

    def kin(self, root: Mark | None, uid: int | None = None) -> set[Mark]:
        """Return all processes that belong to one sandbox.

        They are: *root* with its group and session; who runs as *uid*, which no other
        sandbox has; and all descendants.
        """
        found: set[int] = set()
        new = {*self.users.get(uid, ())} if uid is not None else set()
        if root is not None:
            new |= {*self.bands.get(root.pid, ())}
            new |= {root.pid} if self.marks.get(root.pid) == root else set()
        while new := new - found:
            found |= new
            new = {child for pid in new for child in self.children.get(pid, ())}
        return {self.marks[pid] for pid in found - {os.getpid()}}


class Registry:
    """Takes censuses, one at a time; all who ask meanwhile share the next one."""

    def __init__(self) -> None:
        self._running: asyncio.Future[Census] | None = None
        self._next: asyncio.Future[Census] | None = None

    async def census(self) -> Census:
        """Return a census that was begun after this was asked for."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._take(self._running))
        return await asyncio.shield(self._next)

    async def users(self) -> Collection[int]:
        """Return who has processes now."""
        return (await self.census()).users

    async def _take(self, before: asyncio.Future[Census] | None) -> Census:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        return await asyncio.to_thread(Census.take)


async def end_all(marks: Iterable[Mark]) -> None:
    """Kill these processes; return when all of them are over."""
    processes = [p for mark in marks if (p := Process.watch(mark)) is not None]
    try:
        for process in processes:
            process.kill()
        for process in processes:
            await process.ended.wait()
    finally:
        for process in processes:
            process.close()


def _uids(pid: int) -> Collection[int]:
    """Return the users that a process is, one way or the other.

    The folder's owner tells, unless the process hides behind root.
    """
    folder = PROC / str(pid)
    try:
        owner = folder.stat().st_uid
        if owner != _ROOT:
            return (owner,)
        text = (folder / "status").read_text(errors="replace")
    except OSError:
        return ()
    line = next((x for x in text.splitlines() if x.startswith("Uid:")), "Uid:")
    return {int(each) for each in line.split()[1:]}
