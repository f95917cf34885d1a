"""Processes of a sandbox: started apart from us, watched, and ended for sure."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "HANDED",
    "Mark",
    "Process",
    "end_all",
    "first_line",
    "has_processes",
    "kin",
    "start",
]

_LAST_MOMENTS = 2.0
_PROC = Path("/proc")
_PPID, _STATE, _PGRP, _SESSION, _STARTTIME = 1, 0, 2, 3, 19  # behind the name


class Mark(NamedTuple):
    """One process for ever: numbers are used again, with another start time."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the mark of a process that runs; None: there is none."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, int(stat[_STARTTIME]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Mark.of(self.pid) == self


class Process:
    """A process under watch; ``ended`` is set when it is over."""

    def __init__(self, mark: Mark, pidfd: int) -> None:
        self.mark = mark
        self.status: int | None = None  # as wait() tells it; None: not our child
        self.ended = asyncio.Event()
        self._pidfd = pidfd
        self._listeners: list[Callable[[], None]] = []
        asyncio.get_running_loop().add_reader(pidfd, self._on_end)

    @classmethod
    def watch(cls, mark: Mark) -> Self | None:
        """Watch the process of *mark*; None: it is over."""
        try:
            pidfd = os.pidfd_open(mark.pid)
        except ProcessLookupError:
            return None
        if not mark.alive:  # checked behind the open: the number is held now
            os.close(pidfd)
            return None
        return cls(mark, pidfd)

    @classmethod
    def of_child(cls, mark: Mark) -> Self:
        """Watch a child of ours, dead or alive: it keeps its number until we look."""
        return cls(mark, os.pidfd_open(mark.pid))

    def on_end(self, call: Callable[[], None]) -> None:
        """Have *call* called once, when the process is over."""
        self._listeners.append(call)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process; one that is over gets none."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Stop watching; the process is left alone."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_end(self) -> None:
        with suppress(ChildProcessError):  # adopted: init takes its status
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            if found is not None:
                self.status = found.si_status
        self.close()
        self.ended.set()
        for call in self._listeners:
            call()


HANDED = 3
"""The number that a process knows what it is handed by."""


def start(
    argv: list[str],
    environment: Mapping[str, str],
    *,
    output: int,
    log: int,
    handed: int | None = None,
) -> Mark:
    """Start *argv* in a session of its own, sharing nothing but a few descriptors.

    Its standard output is *output*, its standard error *log*; it finds *handed* as
    `HANDED`. Not killed when we are: sandboxes outlive their WorkloadManager.
    """
    given = () if handed is None else ((os.POSIX_SPAWN_DUP2, handed, HANDED),)
    pid = os.posix_spawn(
        argv[0],
        argv,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            *given,
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=[s for s in signal.Signals if s not in _UNCHANGEABLE],
    )
    return Mark.of(pid) or Mark(pid, 0)  # 0: it is over already


_UNCHANGEABLE = (signal.SIGKILL, signal.SIGSTOP)


async def first_line(output: int, process: Process) -> None:
    """Return once *process* has written a line to the other end of *output*.

    Raises:
        EOFError: it ended before; says with which status.
    """
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    process.on_end(news.set)
    loop.add_reader(output, news.set)
    data = b"?"
    try:
        while data and not process.ended.is_set():
            await news.wait()
            news.clear()
            with suppress(BlockingIOError):
                data = os.read(output, 65536)
                if b"\n" in data:
                    return
    finally:
        loop.remove_reader(output)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_MOMENTS):  # without output it is ending
            await process.ended.wait()
    raise EOFError(f"it ended before it was ready, with status {process.status}")


def kin(
    words: Sequence[str], *, root: Mark | None = None, uid: int | None = None
) -> set[Mark]:
    """Return all processes that belong to one sandbox. Blocks, some milliseconds.

    They are: *root* with its group and session; who runs as *uid*, which no other
    sandbox has; whose command line holds *words* in a row; and all descendants.
    """
    stats = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None}
    found = {pid for pid in stats if words and _has_words(pid, words)}
    if uid is not None:
        found |= {pid for pid in stats if uid in _uids(pid)}
    if root is not None:
        group = str(root.pid)
        found |= {p for p, s in stats.items() if group in (s[_PGRP], s[_SESSION])}
        if root.pid in stats and int(stats[root.pid][_STARTTIME]) == root.started:
            found.add(root.pid)
    grown = True
    while grown:
        children = {p for p, stat in stats.items() if int(stat[_PPID]) in found}
        grown = not children <= found
        found |= children
    found.discard(os.getpid())
    return {Mark(pid, int(stats[pid][_STARTTIME])) for pid in found}


def has_processes(uid: int) -> bool:
    """Say whether anybody on this machine runs as *uid*. Blocks, some milliseconds."""
    return any(uid in _uids(pid) for pid in _pids())


async def end_all(marks: Iterable[Mark]) -> None:
    """Kill these processes; return when all of them are over."""
    processes = [p for mark in marks if (p := Process.watch(mark)) is not None]
    try:
        for process in processes:
            process.signal(signal.SIGKILL)
        for process in processes:
            await process.ended.wait()
    finally:
        for process in processes:
            process.close()


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir(_PROC) if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Return the fields behind the name, which may hold anything.

    Source: proc(5), /proc/pid/stat. A zombie counts as over.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[_STATE] in "ZX" else fields


def _has_words(pid: int, words: Sequence[str]) -> bool:
    wanted = "".join(f"{word}\0" for word in words).encode()
    try:
        return wanted in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _uids(pid: int) -> set[int]:
    try:
        text = (_PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return set()
    line = next((x for x in text.splitlines() if x.startswith("Uid:")), "Uid:")
    return {int(each) for each in line.split()[1:]}
