"""Who belongs to one sandbox, however far it has gone from its parent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workloadmanager._process import PROC, STARTTIME, Mark, Process, stat_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["end_all", "has_processes", "kin"]

_PPID, _PGRP, _SESSION = 1, 2, 3  # behind the name


def kin(root: Mark | None, uid: int | None = None) -> set[Mark]:
    """Return all processes that belong to one sandbox. Blocks, some milliseconds.

    They are: *root* with its group and session; who runs as *uid*, which no other
    sandbox has; and all descendants.
    """
    stats = {pid: stat for pid in _pids() if (stat := stat_of(pid)) is not None}
    found: set[int] = set()
    if uid is not None:
        found |= {pid for pid in stats if uid in _uids(pid)}
    if root is not None:
        group = str(root.pid)
        found |= {p for p, s in stats.items() if group in (s[_PGRP], s[_SESSION])}
        if root.pid in stats and int(stats[root.pid][STARTTIME]) == root.started:
            found.add(root.pid)
    grown = True
    while grown:
        children = {p for p, stat in stats.items() if int(stat[_PPID]) in found}
        grown = not children <= found
        found |= children
    found.discard(os.getpid())
    return {Mark(pid, int(stats[pid][STARTTIME])) for pid in found}


def has_processes(uid: int) -> bool:
    """Say whether anybody on this machine runs as *uid*. Blocks, some milliseconds."""
    return any(uid in _uids(pid) for pid in _pids())


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


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir(PROC) if entry.name.isdigit()]


def _uids(pid: int) -> set[int]:
    try:
        text = (PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return set()
    line = next((x for x in text.splitlines() if x.startswith("Uid:")), "Uid:")
    return {int(each) for each in line.split()[1:]}
