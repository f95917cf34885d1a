"""What a machine takes for that which every start of a process is made of.

    python -I -S benchmarks/_yardsticks.py

Machines differ by ten times in these, far more than in what a core computes, and they
say how long a sandbox takes to start. Prints one JSON object; it is a process of its
own and loads nothing else, since a fork copies what its process has.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["yardsticks"]

_SIZE = 64 << 20
_ROUNDS, _FORKS, _TRIPS = 3, 30, 1000
_PATIENCE = 60.0


def yardsticks() -> dict[str, float]:
    """Return what a page fault, a fork and a round trip take: ns, ms and us."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(Path(__file__))],
        stdout=subprocess.PIPE,
        check=True,
        timeout=_PATIENCE,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _median(act: Callable[[], float], times: int, unit: float) -> float:
    return round(statistics.median(act() for _ in range(times)) * unit, 2)


def _fault() -> float:
    """Return the seconds of the first touch of a page, above those of the second."""
    with mmap.mmap(-1, _SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with suppress(OSError):  # a kernel without huge pages has no such advice
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        first, second = _touched(memory), _touched(memory)
    return max(0.0, first - second) / (_SIZE // mmap.PAGESIZE)


def _touched(memory: mmap.mmap) -> float:
    began = time.perf_counter()
    for at in range(0, _SIZE, mmap.PAGESIZE):
        memory[at] = 1
    return time.perf_counter() - began


def _fork() -> float:
    """Return the seconds until a fork of this small Python has ended."""
    began = time.perf_counter()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return time.perf_counter() - began


def _round_trip() -> Callable[[], float]:
    """Return what sends a byte to another process and waits for it to come back."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        while said := theirs.recv(1):
            theirs.send(said)
        os._exit(0)
    theirs.close()

    def trip() -> float:
        began = time.perf_counter()
        ours.send(b"x")
        ours.recv(1)
        return time.perf_counter() - began

    return trip


if __name__ == "__main__":
    told = {
        "page_fault_ns": _median(_fault, _ROUNDS, 1e9),
        "fork_ms": _median(_fork, _FORKS, 1e3),
        "ping_pong_us": _median(_round_trip(), _TRIPS, 1e6),
    }
    print(json.dumps(told), flush=True)
