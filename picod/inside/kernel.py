"""What the kernel offers and `os` does not: prctl, dispositions, the process table."""

from __future__ import annotations

import _ctypes
import os

from picod.inside import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SIGKILL = 9
_FIXED = (SIGKILL, 17, 19, 32, 33)  # KILL, STOP; CHLD must reap; libc's own
_LEFT_TO_PYTHON = (2, 13, 25)  # INT; PIPE and XFSZ, which Python ignores
IGNORED = [number for number in range(1, 65) if number not in _FIXED]
_KIB = 1024
_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, argument: int | bytes) -> int:
    result = int(libc.prctl(option, argument, 0, 0, 0))
    if result < 0:
        raise OSError(_ctypes.get_errno(), "prctl")
    return result


def hide() -> None:
    """Let no process of this user open our memory or descriptors, ours or a fork's.

    An exec takes it back.
    """
    _prctl(_PR_SET_DUMPABLE, 0)
    if _prctl(_PR_GET_DUMPABLE, 0):
        raise OSError("still dumpable")


def be_called(name: bytes) -> None:
    """Show *name*, up to 15 bytes, in lists of processes.

    Source: prctl(2), PR_SET_NAME. Who is hidden may not write its own /proc/self/comm.
    """
    _prctl(_PR_SET_NAME, name)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Be killed when the parent ends."""
    _prctl(_PR_SET_PDEATHSIG, SIGKILL)


def ignore_signals() -> None:
    """Ignore every signal that can be ignored, so that untrusted code cannot end us."""
    for number in IGNORED:
        libc.signal(number, 1)


def first_to_go(pid: int) -> None:
    """Have the kernel, when memory runs out, choose *pid* and its children, not us."""
    try:
        descriptor = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY)
    except OSError:
        return  # it is gone, or has raised itself above us already
    try:
        os.write(descriptor, b"500")
    except OSError:
        return
    finally:
        os.close(descriptor)


def restore_signals() -> None:
    """Let every signal do what it does in a fresh Python, but SIGINT: ignored."""
    for number in IGNORED:
        if number not in _LEFT_TO_PYTHON:
            libc.signal(number, 0)


class Process:
    """One line of the process table."""

    __slots__ = ("parent", "pid", "zombie")

    def __init__(self, pid: int, parent: int, zombie: bool) -> None:  # noqa: FBT001
        self.pid, self.parent, self.zombie = pid, parent, zombie


def processes() -> list[Process]:
    """Read the process table."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            descriptor = os.open("/proc/" + name + "/stat", os.O_RDONLY)
        except OSError:
            continue  # it is gone
        try:
            line = os.read(descriptor, 1024)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        fields = line[line.rfind(b")") + 2 :].split(b" ", 2)
        found.append(Process(int(name), int(fields[1]), fields[0] in b"ZX"))
    return found


def descendants(roots: Iterable[int], table: list[Process]) -> list[Process]:
    """All processes of *table* below *roots*, without these."""
    children: dict[int, list[Process]] = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    ahead = list(roots)
    while ahead:
        below = children.pop(ahead.pop(), [])
        found += below
        ahead += [process.pid for process in below]
    return found


def held(pid: int) -> tuple[int, int]:
    """Tell how many bytes a process holds for itself, and how many it may share."""
    try:
        descriptor = os.open(f"/proc/{pid}/status", os.O_RDONLY)
    except OSError:
        return 0, 0
    try:
        lines = os.read(descriptor, 4096).split(b"\n")
    except OSError:
        return 0, 0
    finally:
        os.close(descriptor)
    sizes = {
        line[: line.index(b":")]: int(line.split()[1]) * _KIB
        for line in lines
        if line.endswith(b" kB")
    }
    # gVisor's kernel tells one number for both.
    own = sizes.get(b"RssAnon", sizes.get(b"VmRSS", 0))
    return own, sizes.get(b"RssShmem", 0)


def kill(pid: int, signal: int = SIGKILL) -> None:
    """Send *signal*; a process that is gone is fine."""
    try:
        os.kill(pid, signal)
    except OSError:
        return
