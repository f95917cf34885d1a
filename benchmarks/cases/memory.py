"""What sandboxes cost that do nothing, and how many there can be."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from benchmarks._case import MODES, At, NotAvailableError, case
from benchmarks._drive import paced
from benchmarks._floor import beside_bare, forks
from benchmarks._machine import descendants, pss_mib
from benchmarks._series import Series
from benchmarks._setup import TEMPLATE
from benchmarks._ways import ways
from clock import SYSTEM
from cubemesh import AsyncSandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from benchmarks._case import Measured
    from benchmarks._mesh import Mesh
    from benchmarks._ways import Ways

__all__: list[str] = []

_ALIVE: Final = 20
_MAKING: Final = 4
_SETTLED: Final = 2.0
_STEPS: Final = (32, 64)
_FURTHER: Final = (128, 256, 400)  # with the time of a full run
_HELD_SECONDS: Final = 8.0
_FULL_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 1.5
_DOUBLE: Final = 2.0


@case("memory/idle@{mode}", mode=MODES)
async def idle(at: At, **_: str) -> Measured:
    """Weigh all processes of an idle sandbox, 20 alive, each with its share (PSS)."""
    mesh = at.mesh
    before = _weight(descendants(mesh.manager))
    async with _held() as sandboxes:
        await _more(sandboxes, mesh, _ALIVE)
        await SYSTEM.sleep(_SETTLED)
        after = _weight(descendants(mesh.manager))
    ours = _each((after - before) / _ALIVE)
    return {"sandbox": ours, **beside_bare("sandbox", ours, await _bare())}


async def _bare() -> Series:
    """Weigh as many bare sandboxes, each used once."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(forks())
        before = _weight([made.pid])
        for _ in range(_ALIVE):
            stack.push_async_callback(await made.first_result())
        await SYSTEM.sleep(_SETTLED / 2)  # they were made one after the other
        after = _weight([made.pid, *descendants(made.pid)])
    return _each((after - before) / _ALIVE)


def _each(weight: float) -> Series:
    return Series("MiB", "lower", [[weight]])


@case("memory/services@{mode}", mode=MODES)
async def services(at: At, **_: str) -> Measured:
    """Weigh Router and WorkloadManager of a mesh that does nothing (PSS)."""
    mesh = at.mesh
    pids = {"router": mesh.routers, "workloadmanager": [mesh.manager]}
    return {
        name: Series("MiB", "lower", [[sum(map(pss_mib, found))]])
        for name, found in pids.items()
    }


@case("memory/held@{mode}", mode=MODES)
async def held(at: At, **_: str) -> Measured:
    """Find how many idle sandboxes there may be before calls take twice as long (p99).

    It makes at most 64, in a full run 400, as long as there is time.
    """
    mesh, full = at.mesh, at.depth == "full"
    until = time.monotonic() + (_FULL_SECONDS if full else _HELD_SECONDS)
    async with ways(mesh) as to, _held() as sandboxes:
        alone = await _stat(to)
        limit, good = alone.percentile(99) * _DOUBLE, 0
        for step in (*_STEPS, *(_FURTHER if full else ())):
            await _more(sandboxes, mesh, step - len(sandboxes), until)
            now = await _stat(to)
            if now.percentile(99) > limit:
                break
            good = len(sandboxes)
            if time.monotonic() > until:
                break
    return {
        "held": Series("sandboxes", "higher", [[float(good)]]),
        "alone": alone.beside(),
        "among them": now,
    }


async def _stat(to: Ways) -> Series:
    (taken,) = await paced(to.routed.stat, seconds=_LOOK_SECONDS)
    return taken.series()["latency"]


def _weight(pids: Iterable[int]) -> float:
    """Return what *pids* weigh: of ours, all below the WorkloadManager."""
    try:
        return sum(map(pss_mib, pids))
    except PermissionError as error:
        text = "only root reads the memory maps of sandboxes"
        raise NotAvailableError(text) from error


@asynccontextmanager
async def _held() -> AsyncIterator[list[AsyncSandbox]]:
    """Yield a list of sandboxes, to be filled; all of them end with the block."""
    sandboxes: list[AsyncSandbox] = []
    try:
        yield sandboxes
    finally:
        places = asyncio.Semaphore(_MAKING)

        async def end(sandbox: AsyncSandbox) -> None:
            async with places, sandbox:
                pass

        await asyncio.gather(*map(end, sandboxes), return_exceptions=True)


async def _more(
    sandboxes: list[AsyncSandbox],
    mesh: Mesh,
    count: int,
    until: float = float("inf"),
) -> None:
    """Make *count* more sandboxes, used once each, some at a time."""
    places = asyncio.Semaphore(_MAKING)

    async def one() -> None:
        async with places:
            if time.monotonic() > until:
                return
            made = await AsyncSandbox.create(profile=mesh.profile, template=TEMPLATE)
            sandboxes.append(made)
            await made.commands.run(["true"])

    await asyncio.gather(*(one() for _ in range(count)))
