"""From asking for a sandbox to its first result."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from benchmarks._case import MODES, At, Setup, case
from benchmarks._drive import burst, flood, paced
from benchmarks._floor import beside_bare, forks
from benchmarks._series import Series
from benchmarks._servers import WORKS, CubeMesh
from benchmarks._setup import LEVELS, TEMPLATE
from clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks._case import Depth, Measured
    from benchmarks._drive import Act, Taken, Undo
    from benchmarks._mesh import Mode
    from benchmarks._servers import Box, Server, Work

__all__ = ["AT_ONCE", "POOL", "SERIAL", "filled", "first_result"]

SERIAL: Final = "serial"
AT_ONCE: Final = (SERIAL, "8", "32", "100")
POOL: Final = 8
_SMALL_POOL, _DEMAND = 2, 8
_UNDER_WAY: Final = 8  # creates that are sustained
_FROM_POOL: Final = (SERIAL, "8")  # what a pool has for all who come
_BESIDE: Final = {"latency", "last"}  # what the least that can do it is compared in
_FILLED: Final = 60.0


def _depth(mode: Mode, start: str, level: str, work: str, at_once: str) -> Depth:
    """All of one at a time in `bwrap`; of the rest what a usual run has time for."""
    serial, code = at_once == SERIAL, work == "run_code"
    if level != "bwrap":
        return "standard" if serial and code and mode == "jwt" else "full"
    if serial:
        return "quick"
    usual = code if start == "warm" else at_once == "8"
    return "standard" if usual else "full"


def _setup(mode: Mode, start: str, level: str = "bwrap", **_: str) -> Setup:
    return Setup(mode, level, pool=POOL if start == "warm" else 0)


@case(
    "create/miss/{work}@{mode}",
    needs=lambda mode, **_: Setup(mode, pool=_SMALL_POOL),
    mode=MODES,
    work=WORKS,
)
async def miss(at: At, *, work: Work, **_: str) -> Measured:
    """Time from create to the first result, 8 at once on a pool of 2, refilled."""
    server, many = CubeMesh(at.mesh.profile, TEMPLATE), str(_DEMAND)
    async with forks() as bare:
        found = await first_result(
            *(server, work, many),
            seconds=at.seconds(4),
            before=filled(server),
            least=bare.first_result,
        )
    if (missed := found.get("latency, cold")) is None:  # the pool had enough for all
        return found
    return {**found, **beside_bare("latency, cold", missed, found["bare latency"])}


@case(
    "create/{start}/{work}/{level}/{at_once}@{mode}",
    depth=_depth,
    needs=_setup,
    mode=MODES,
    start=("cold", "warm"),
    level=LEVELS,
    work=WORKS,
    at_once=AT_ONCE,
)
async def create(
    at: At, *, start: str, level: str, work: Work, at_once: str, **_: str
) -> Measured:
    """Time from create to the first result."""
    server = CubeMesh(at.mesh.profile, TEMPLATE)
    before = filled(server) if start == "warm" else None
    made_ahead = start == "warm" and at_once in _FROM_POOL
    if level != "bwrap" or made_ahead:
        return await first_result(
            server, work, at_once, seconds=at.seconds(3), before=before
        )
    async with forks() as bare:
        found = await first_result(
            *(server, work, at_once),
            seconds=at.seconds(4),
            before=before,
            least=bare.first_result,
        )
    return {**found, **bare.costs()}


@case(
    "create/sustained/{start}@{mode}",
    needs=_setup,
    mode=MODES,
    start=("cold", "warm"),
)
async def sustained(at: At, **_: str) -> Measured:
    """Create and destroy without a pause, eight under way."""
    server = CubeMesh(at.mesh.profile, TEMPLATE)

    async def ours() -> Undo:
        return _destroying(await server.create())

    async with forks() as bare:  # first: afterwards a pool is being filled again

        async def least() -> Undo:
            return (await bare.start()).end

        few = await flood(least, in_flight=_UNDER_WAY, seconds=at.seconds(2.5))
    many = await flood(ours, in_flight=_UNDER_WAY, seconds=at.seconds(5))
    return {**many, **beside_bare("rate", many["rate"], few["rate"])}


async def first_result(  # noqa: PLR0913 - of what, and how
    server: Server,
    work: Work,
    at_once: str,
    *,
    seconds: float,
    before: Callable[[], Awaitable[object]] | None = None,
    least: Act | None = None,
) -> Measured:
    """Measure from create to the first result of *work* on any *server*.

    By turns with *least*, if there is something that does the least.
    """

    async def ours() -> Undo:
        box = await server.create()
        try:
            await getattr(box, work)()
        except BaseException:
            await asyncio.shield(box.destroy())
            raise
        return _destroying(box)

    acts = [ours] if least is None else [ours, least]
    if at_once == SERIAL:
        if before is not None:
            await before()
        taken, *bare = await paced(*acts, seconds=seconds, warm_up=2)
    else:
        taken, *bare = await burst(
            *acts, at_once=int(at_once), seconds=seconds, before=before
        )
    found = _told(taken, at_once)
    for each in bare:
        floor = _told(each, at_once)
        for name in _BESIDE & floor.keys():
            found |= beside_bare(name, found[name], floor[name])
    return {**found, **_hits(taken)}


def _told(taken: Taken, at_once: str) -> dict[str, Series]:
    """Return the latencies, and of bursts when the last was served and how many."""
    if at_once == SERIAL:
        return taken.series()
    last = [[max(ms for ms, _ in each)] for each in taken.rounds if each]
    served = [[100 * len(each) / int(at_once)] for each in taken.rounds]
    return {
        **taken.series(),
        "last": Series("ms", "lower", last),
        "served": Series("%", "higher", served),
    }


def _destroying(box: Box) -> Undo:
    """Return what ends *box*, and tells whether it came from a pool."""

    async def undo() -> str | None:
        try:
            ahead = await box.made_ahead()
        finally:
            await box.destroy()
        return None if ahead is None else "warm" if ahead else "cold"

    return undo


def _hits(taken: Taken) -> Measured:
    """Tell how many found a sandbox ready, where that is known of any."""
    told = any(label for each in taken.rounds for _, label in each)
    return {"hits": taken.share("warm")} if told else {}


def filled(server: Server) -> Callable[[], Awaitable[None]]:
    """Return what waits until the pool of *server* has something."""

    async def wait() -> None:
        async with asyncio.timeout(_FILLED):
            while await _destroying(await server.create())() != "warm":
                await SYSTEM.sleep(0.1)
        await SYSTEM.sleep(1)  # the rest of it

    return wait
