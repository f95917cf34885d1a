"""Processes of a sandbox: started apart from us, watched, and ended for sure."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["PROC", "STARTTIME", "Mark", "Process", "start", "stat_of"]

PROC = Path("/proc")
STARTTIME = 19  # behind the name
_STATE = 0


class Mark(NamedTuple):
    """One process for ever: numbers are used again, with another start time."""

    pid: int
    started: int

    @classmethod
    def read(cls, text: bytes) -> Self | None:
        """Return the mark that *text* tells as a PicoD does, if it does."""
        try:
            values = json.loads(text)
            return cls(int(values["pid"]), int(values["started"]))
        except (ValueError, TypeError, KeyError):
            return None

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the mark of a process that runs; None: there is none."""
        stat = stat_of(pid)
        return None if stat is None else cls(pid, int(stat[STARTTIME]))

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

    def kill(self) -> None:
        """Kill this very process; one that is over is fine."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

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


def start(
    argv: list[str], environment: Mapping[str, str], descriptors: Sequence[int]
) -> Mark:
    """Start *argv* in a session of its own, sharing nothing but *descriptors*.

    It finds those as 1, 2 and so on. Not killed when we are: sandboxes outlive their
    WorkloadManager.
    """
    pid = os.posix_spawn(
        argv[0],
        argv,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            *(
                (os.POSIX_SPAWN_DUP2, each, number)
                for number, each in enumerate(descriptors, start=1)
            ),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=[s for s in signal.Signals if s not in _UNCHANGEABLE],
    )
    return Mark.of(pid) or Mark(pid, 0)  # 0: it is over already


_UNCHANGEABLE = (signal.SIGKILL, signal.SIGSTOP)


def stat_of(pid: int) -> list[str] | None:
    """Return the fields behind the name, which may hold anything.

    Source: proc(5), /proc/pid/stat. A zombie counts as over.
    """
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[_STATE] in "ZX" else fields
