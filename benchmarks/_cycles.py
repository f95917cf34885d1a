"""Sandboxes made and ended by the thousand: whatever is left of them is counted."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from benchmarks._figures import spread
from benchmarks._machine import services
from benchmarks._mesh import mesh
from clock import SYSTEM
from cubemesh import AsyncSandbox, CubeMeshError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks._mesh import Mesh, Mode

__all__ = ["Cycles", "cycles"]

_AT_ONCE = 4
_FIRST = 100  # cycles before the first look: pools, caches and allocators have settled
_SETTLED = 60.0
_LOOK = 6.0  # a line that a Router opened ahead for nobody is closed after 20 s
_SHOWN = 10
_AHEAD = {
    "CUBEMESH_WORKLOADMANAGER_WARM_MIN_READY": "2",
    "CUBEMESH_WORKLOADMANAGER_WARM_MAX_READY": "2",
}


class Left(NamedTuple):
    """What there is at one moment, of this mesh and on this machine."""

    processes: int
    descriptors: int
    threads: int
    mounts: int
    groups: int
    files: int
    rss_mib: float


_EXACT = 2  # of the fields of `Left` those that tell when all is quiet
# What may be more by chance: threads and memory that are kept for reuse, and sockets of
# closed channels, of which gRPC frees some dozens at a time (over 400 cycles 284 to 320
# descriptors by turns, and no trend). The logs of the last thousand sandboxes are kept
# on purpose.
_MORE = Left(0, 64, 3, 0, 0, 4, 24.0)


@dataclass(slots=True)
class Cycles:
    """What happened; *before* and *after* are looked at when all is quiet."""

    count: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    warm: int = 0
    before: Left | None = None
    after: Left | None = None

    @property
    def held(self) -> bool:
        """Whether all went well and nothing is left."""
        if self.failures or self.before is None or self.after is None:
            return False
        grown = zip(self.before, self.after, _MORE, strict=True)
        return all(after <= before + more for before, after, more in grown)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, for the results file."""
        return {
            "cycles": self.count,
            "per_second": round(self.count / self.seconds, 1) if self.seconds else None,
            "first_result_ms": spread(self.latencies) if self.latencies else {},
            "warm": self.warm,
            "failed": len(self.failures),
            "first_failures": self.failures[:_SHOWN],
            "before": self.before._asdict() if self.before else None,
            "after": self.after._asdict() if self.after else None,
            "held": self.held,
        }


async def cycles(mode: Mode, *, count: int, minutes: float) -> Cycles:
    """Make sandboxes, some at a time, use each once, and end it.

    It is over after *count* of them, or after so many *minutes*.
    """
    seen = Cycles()
    async with (
        mesh(mode, **_AHEAD) as at,
        await AsyncSandbox.create(profile=at.profile),  # keeps our connection open
    ):
        await _round(at, Cycles(), iter(range(_FIRST)))
        seen.before = await _settled(at)
        began = time.monotonic()
        until = began + 60 * minutes
        numbers = takewhile(lambda _: time.monotonic() < until, range(count))
        await _round(at, seen, numbers)
        seen.seconds = time.monotonic() - began
        seen.after = await _settled(at)
    return seen


async def _round(at: Mesh, seen: Cycles, numbers: Iterator[int]) -> None:
    async def one_after_another() -> None:
        for number in numbers:
            seen.count += 1
            try:
                await _cycle(at, seen)
            except CubeMeshError as error:
                seen.failures.append(f"cycle {number}: {type(error).__name__}: {error}")

    await asyncio.gather(*(one_after_another() for _ in range(_AT_ONCE)))


async def _cycle(at: Mesh, seen: Cycles) -> None:
    began = time.perf_counter()
    async with await AsyncSandbox.create(profile=at.profile) as sandbox:
        said = (await sandbox.commands.run("echo $$")).stdout
        seen.latencies.append((time.perf_counter() - began) * 1000)
        if not said.strip().isdecimal():
            seen.failures.append(f"a command said {said!r}")
        seen.warm += (await sandbox.info()).start == "warm"


async def _settled(at: Mesh) -> Left:
    """Return what there is once it changes no more, or has had a minute for it."""
    last, until = _left(at), time.monotonic() + _SETTLED
    while time.monotonic() < until:
        await SYSTEM.sleep(_LOOK)
        if (now := _left(at))[:_EXACT] == last[:_EXACT]:
            return now
        last = now
    return last


def _left(at: Mesh) -> Left:
    descriptors = threads = processes = 0
    memory = 0.0
    for process in psutil.Process(at.supervisor).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            descriptors += process.num_fds()
            threads += process.num_threads()
            processes += 1
    for _, pid in services(at.supervisor):
        with suppress(psutil.NoSuchProcess):
            memory += psutil.Process(pid).memory_info().rss / (1 << 20)
    logs = [*(at.folder / "state" / "logs").glob("sbx-*.log")]
    ours = {path.stem for path in logs}
    folders = (at.folder, at.runtime, *(Path("/tmp", f"cm-{name}") for name in ours))  # noqa: S108
    files = sum(1 for folder in folders for _ in folder.rglob("*"))
    groups = Path("/sys/fs/cgroup").glob("**/cubemesh-sbx-*")
    return Left(
        processes,
        descriptors,
        threads,
        len(Path("/proc/self/mountinfo").read_text().splitlines()),
        sum(1 for path in groups if path.name.removeprefix("cubemesh-") in ours),
        files - len(logs),
        round(memory, 1),
    )
