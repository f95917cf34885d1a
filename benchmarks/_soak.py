"""Hours in minutes: identities change each second under load, and nothing may fail.

Load is open-loop: a call is due whether earlier ones have ended or not, and its time
counts from then, so a stall shows as the calls that it made late. Only so many run at
once that the Router, which bounds them, refuses none.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from benchmarks._figures import spread
from benchmarks._machine import family
from benchmarks._mesh import mesh
from clock import SYSTEM
from cubemesh import AsyncSandbox, CommandOutput, CubeMeshError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from benchmarks._mesh import Mesh, Mode

__all__ = ["Cost", "Soak", "soak", "warned"]

_TTL = "2s"  # renewed at half of it
_LOOK = 5.0
_LONGEST_STREAM = 60.0
_TICKS = "i=0; while [ $i -lt {} ]; do echo $i; i=$((i+1)); sleep 0.1; done"
_SHOWN = 10
_AT_ONCE = 64
_BAD = frozenset(("warning", "error", "critical"))


class Cost(NamedTuple):
    """What one process holds at one moment."""

    descriptors: int
    threads: int
    rss_mib: float


@dataclass(slots=True)
class Soak:
    """What happened; ``costs`` by process, one look every five seconds."""

    minutes: float
    calls: int = 0
    unmade: int = 0
    """Calls that were due and never made: the machine cannot make so many."""
    streams: int = 0
    lines: int = 0
    failures: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    """How often each service said what, and for what reason: why calls failed."""

    @property
    def grown(self) -> dict[str, Cost]:
        """What each process holds more in the last quarter than in the second."""
        return {name: _growth(costs) for name, costs in self.costs.items()}

    @property
    def flat(self) -> bool:
        """Whether nothing grows: not descriptors, nor threads, nor memory."""
        return all(
            cost.descriptors <= _MORE.descriptors
            and cost.threads <= _MORE.threads
            and cost.rss_mib <= _MORE.rss_mib
            for cost in self.grown.values()
        )

    @property
    def held(self) -> bool:
        """Whether no call failed, everybody's identity changed, and nothing grew."""
        changes = min(self.generations.values(), default=0)
        return not self.failures and changes >= 30 * self.minutes and self.flat

    def as_json(self) -> dict[str, Any]:
        """Return all of it, for the results file."""
        return {
            "minutes": self.minutes,
            "calls": self.calls,
            "calls_not_made": self.unmade,
            "streams": self.streams,
            "stream_lines": self.lines,
            "failed": len(self.failures),
            "first_failures": self.failures[:_SHOWN],
            "latency_ms": spread(self.latencies) if self.latencies else {},
            "slowest_ms": round(max(self.latencies, default=0.0), 1),
            "generations": self.generations,
            "warnings": self.warnings,
            "processes": {
                name: {
                    "first": costs[0]._asdict(),
                    "last": costs[-1]._asdict(),
                    "grown": _growth(costs)._asdict(),
                }
                for name, costs in self.costs.items()
            },
            "held": self.held,
        }


# What a process may hold more of by chance: connections that drain just then, and
# memory that the allocator has not given back.
_MORE = Cost(descriptors=24, threads=2, rss_mib=12.0)


def _growth(costs: list[Cost]) -> Cost:
    quarter = max(1, len(costs) // 4)
    early, late = costs[quarter : 2 * quarter] or costs, costs[-quarter:]
    descriptors, threads, memory = (
        statistics.median(after) - statistics.median(before)
        for before, after in zip(
            zip(*early, strict=True), zip(*late, strict=True), strict=True
        )
    )
    return Cost(round(descriptors), round(threads), round(memory, 1))


async def soak(mode: Mode, *, minutes: float, rate: float, streams: int) -> Soak:
    """Call a mesh *rate* times a second, beside long *streams*, for *minutes*."""
    seen = Soak(minutes)
    async with (
        mesh(mode, "--svid-ttl", _TTL) as at,
        await AsyncSandbox.create(
            profile=at.profile, lifetime=60 * minutes + 600
        ) as sandbox,
    ):
        began = _generations(at)
        async with asyncio.timeout(60 * minutes + 120), _watched(at, seen):
            until = time.monotonic() + 60 * minutes
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_call(sandbox, seen, rate, until, tasks))
                for number in range(streams):
                    tasks.create_task(_listen(sandbox, seen, until, number))
        ended = _generations(at)
        seen.warnings = warned(at)
    seen.generations = {name: ended[name] - began.get(name, 0) for name in ended}
    return seen


async def _call(
    sandbox: AsyncSandbox,
    seen: Soak,
    rate: float,
    until: float,
    tasks: asyncio.TaskGroup,
) -> None:
    await sandbox.files.write("small", b"content")
    places = asyncio.Semaphore(_AT_ONCE)
    due = time.monotonic()
    while due < until > time.monotonic():
        await SYSTEM.sleep(due - time.monotonic())
        await places.acquire()
        one = tasks.create_task(_one_call(sandbox, seen, due))
        one.add_done_callback(lambda _: places.release())
        due += 1 / rate
    seen.unmade = max(0, round((until - due) * rate))


async def _one_call(sandbox: AsyncSandbox, seen: Soak, due: float) -> None:
    """Make one call, mostly unary; its time counts from when it was due."""
    number = seen.calls
    seen.calls += 1
    ask = sandbox.files.stat if number % 10 else sandbox.files.read
    if await _survived(seen, f"call {number}", ask("small")):
        seen.latencies.append((time.monotonic() - due) * 1000)


async def _listen(sandbox: AsyncSandbox, seen: Soak, until: float, number: int) -> None:
    """Read streams of up to a minute, one after the other; none may miss a line."""
    chance = random.Random(number)  # noqa: S311 -- the same lengths each time
    while (left := until - time.monotonic()) > 0:
        wanted = max(1, round(10 * min(left, chance.uniform(1, _LONGEST_STREAM))))
        seen.streams += 1
        await _survived(seen, f"stream {seen.streams}", _read(sandbox, seen, wanted))


async def _read(sandbox: AsyncSandbox, seen: Soak, wanted: int) -> None:
    text = b""
    async for event in sandbox.commands.stream(_TICKS.format(wanted)):
        if isinstance(event, CommandOutput):
            text += event.data
    lines = [int(line) for line in text.split()]
    seen.lines += len(lines)
    if lines != list(range(wanted)):
        seen.failures.append(f"a stream of {wanted} lines came as {len(lines)}")


async def _survived(seen: Soak, name: str, call: Coroutine[Any, Any, Any]) -> bool:
    try:
        await call
    except CubeMeshError as error:
        seen.failures.append(f"{name}: {type(error).__name__}: {error}")
        return False
    return True


@asynccontextmanager
async def _watched(at: Mesh, seen: Soak) -> AsyncIterator[None]:
    """Look at all processes of the mesh every few seconds while the block runs."""

    async def look() -> None:
        while True:
            for name, pid in family(at.supervisor):
                seen.costs.setdefault(name, []).append(_cost(pid))
            await SYSTEM.sleep(_LOOK)

    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(look())
        try:
            yield
        finally:
            looking.cancel()


def _cost(pid: int) -> Cost:
    process = psutil.Process(pid)
    memory = process.memory_info().rss / (1 << 20)
    return Cost(process.num_fds(), process.num_threads(), round(memory, 1))


def _generations(at: Mesh) -> dict[str, int]:
    """Count the identities that each service has had, by its log."""
    loaded = Counter(
        log for log, line in _lines(at) if line["event"] == "identity loaded"
    )
    counted: dict[str, int] = {}
    for log, count in loaded.items():  # of all sandboxes the one that has lived longest
        counted[_service(log)] = max(count, counted.get(_service(log), 0))
    return counted


def warned(at: Mesh) -> dict[str, int]:
    """Count what services warned of, by service, event and reason."""
    return Counter(
        f"{_service(log)}: {line['event']} ({line.get('reason', '-')})"
        for log, line in _lines(at)
        if line["level"] in _BAD
    )


def _lines(at: Mesh) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each log of the mesh, and its lines."""
    for log in (at.folder / "state" / "logs").glob("*.log"):
        for line in log.read_text().splitlines():
            yield log.stem, _parsed(line)


def _parsed(line: str) -> dict[str, Any]:
    """Return what a line says; one that our logging did not write is a warning."""
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"event": line, "level": "error"}
    return parsed


def _service(log: str) -> str:
    return "picod" if log.startswith("sbx-") else log
