"""What is measured, one function per case; times in milliseconds."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from benchmarks._figures import difference, spread
from benchmarks._machine import cpu_seconds, rss_mib
from clock import SYSTEM
from cubemesh import AsyncSandbox, CommandOutput
from cubemesh.v1 import picod_pb2
from cubemesh.v1.picod_pb2_grpc import PicoDStub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import grpc.aio

    from benchmarks._mesh import Mesh
    from cubemesh.v1.picod_pb2_grpc import PicoDAsyncStub

__all__ = ["Way", "first_output", "hop", "rate", "read", "way"]

IN_FLIGHT = 64
FILE = b"big"
_WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Way:
    """A stub, and the metadata that its calls need."""

    stub: PicoDAsyncStub
    metadata: Sequence[tuple[str, str | bytes]]

    async def stat(self) -> None:
        """Make the smallest useful call."""
        request = picod_pb2.StatRequest(path=b".")
        await self.stub.Stat(request, metadata=self.metadata, timeout=30)


def way(channel: grpc.aio.Channel, *metadata: tuple[str, str | bytes]) -> Way:
    """Return the way over *channel*."""
    return Way(PicoDStub(channel), metadata)


async def hop(routed: Way, direct: Way, *, calls: int) -> dict[str, Any]:
    """Measure one call at a time, by turns through the Router and without it."""
    samples: dict[str, list[float]] = {"routed": [], "direct": []}
    ways = {"routed": routed, "direct": direct}
    for turn in range(_WARM_UP + calls):
        for name, each in ways.items():
            began = time.perf_counter()
            await each.stat()
            if turn >= _WARM_UP:
                samples[name].append((time.perf_counter() - began) * 1000)
    spreads = {name: spread(taken) for name, taken in samples.items()}
    hop_ms = difference(spreads["routed"], spreads["direct"])
    return {
        "hop_ms": hop_ms,
        "routed_ms": spreads["routed"],
        "direct_ms": spreads["direct"],
    }


async def rate(through: Way, pid: int, *, seconds: float) -> dict[str, Any]:
    """Measure calls per second with 64 in flight, by the clock and by the processor.

    The clients share the machine with everything else, so the rate per second of
    processor time that *pid* used is what one core would give.
    """
    latencies: list[float] = []
    until = 0.0

    async def one_after_another() -> None:
        while (began := time.perf_counter()) < until:
            await through.stat()
            latencies.append((time.perf_counter() - began) * 1000)

    for length in (0.5, seconds):
        latencies.clear()
        began, used = time.perf_counter(), cpu_seconds(pid)
        until = began + length
        await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
        took, used = time.perf_counter() - began, cpu_seconds(pid) - used
    return {
        "calls_per_s": round(len(latencies) / took),
        "calls_per_core_s": round(len(latencies) / used),
        "cores_used": round(used / took, 2),
        "latency_ms": spread(latencies),
    }


async def read(
    routed: Way, direct: Way, router: int, *, mib: int, rounds: int
) -> dict[str, Any]:
    """Measure a large `ReadFile` by turns, and the Router's memory meanwhile."""
    script = f"head -c {mib}M /dev/zero > {FILE.decode()}"
    made = direct.stub.Execute(
        picod_pb2.ExecuteRequest(argv=["sh", "-c", script]), metadata=direct.metadata
    )
    [_ async for _ in made]
    before = rss_mib(router)
    rates: dict[str, list[float]] = {"routed": [], "direct": []}
    async with _Peak(router) as peak:
        for _ in range(rounds):
            rates["direct"].append(await _read(direct, mib))
            rates["routed"].append(await _read(routed, mib))
    best = {name: max(taken) for name, taken in rates.items()}
    return {
        "mib": mib,
        "mib_per_s": {name: [round(r) for r in taken] for name, taken in rates.items()},
        "ratio": round(best["routed"] / best["direct"], 3),
        "router_rss_mib": {"before": round(before, 1), "peak": round(peak.mib, 1)},
        "growth_mib": round(peak.mib - before, 1),
    }


async def _read(through: Way, mib: int) -> float:
    began, size = time.perf_counter(), 0
    call = through.stub.ReadFile(
        picod_pb2.ReadFileRequest(path=FILE), metadata=through.metadata
    )
    async for part in call:
        size += len(part.data)
    if size != mib << 20:
        raise RuntimeError(f"read {size} bytes of {mib} MiB")
    return mib / (time.perf_counter() - began)


class _Peak:
    """The most memory that a process has had while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid, self.mib = pid, rss_mib(pid)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        watching = tasks.create_task(self._watch())
        self._stack.callback(watching.cancel)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def _watch(self) -> None:
        while True:
            self.mib = max(self.mib, rss_mib(self._pid))
            await SYSTEM.sleep(0.05)


async def first_output(at: Mesh, *, rounds: int) -> dict[str, float | int]:
    """Measure from asking for a sandbox to the first byte of its first command."""
    took = [await _timed(lambda: _first_output(at)) for _ in range(rounds)]
    return spread(took)


async def _first_output(at: Mesh) -> Callable[[], Awaitable[None]]:
    sandbox = await AsyncSandbox.create(profile=at.profile)
    async with aclosing(sandbox.commands.stream(["echo", "hello"])) as events:
        async for event in events:
            if isinstance(event, CommandOutput):
                return sandbox.close
    raise RuntimeError("the command wrote nothing")


async def _timed(act: Callable[[], Awaitable[Callable[[], Awaitable[None]]]]) -> float:
    began = time.perf_counter()
    undo = await act()
    took = (time.perf_counter() - began) * 1000
    await undo()
    return took
