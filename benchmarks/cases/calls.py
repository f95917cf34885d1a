"""Calls to a sandbox that is there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks._case import MODES, At, NotAvailableError, Setup, case
from benchmarks._drive import flood, paced
from benchmarks._floor import beside_bare
from benchmarks._machine import cpu_seconds
from benchmarks._rationed import rationed
from benchmarks._series import Series, in_rounds, latency
from benchmarks._ways import floor, ways

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from benchmarks._case import Measured

__all__: list[str] = []

IN_FLIGHT: Final = 64
_CONNECTIONS: Final = 16  # the kernel spreads connections over workers, not calls
_WARM_UP: Final = 100
_RATION: Final = 0.25  # of a core: two of them leave the clients enough


@case("hop/stat@{mode}", depth="quick", mode=MODES)
async def hop(at: At, **_: str) -> Measured:
    """Call by turns through the Router, a bare forwarder, and neither."""
    async with ways(at.mesh) as to:
        ends = {
            "routed": to.routed.stat,
            "bare": to.bare.stat,
            "direct": to.direct.stat,
        }
        took = await _by_turns(ends, seconds=at.seconds(3))
    straight = took["direct"].percentile(50)
    took["hop"] = _above(took["routed"], straight)
    hops = beside_bare("hop", took["hop"], _above(took["bare"], straight))
    for name in ("bare", "direct"):
        took[name] = took[name].beside()
    return {"hop": took.pop("hop"), **hops, **took}


async def _by_turns(
    ends: Mapping[str, Callable[[], Awaitable[None]]], *, seconds: float
) -> dict[str, Series]:
    """Act each in its turn, so that the machine's moods meet all of them alike."""
    samples: dict[str, list[float]] = {name: [] for name in ends}
    for _ in range(_WARM_UP):
        for act in ends.values():
            await act()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for name, act in ends.items():
            began = time.perf_counter()
            await act()
            samples[name].append((time.perf_counter() - began) * 1000)
    return {name: latency(in_rounds(taken)) for name, taken in samples.items()}


def _above(whole: Series, part: float) -> Series:
    """Return, round by round, how far the median is above *part*."""
    rounds = [[latency([each]).percentile(50) - part] for each in whole.rounds]
    return Series("ms", "lower", rounds)


@case(
    "rate/stat/{workers}@{mode}",
    needs=lambda mode, workers: Setup(mode, workers=int(workers)),
    mode=MODES,
    workers=("1", "2"),
)
async def rate(at: At, **_: str) -> Measured:
    """Count small calls in a second, 64 in flight, beside a bare forwarder."""
    async with ways(at.mesh, connections=_CONNECTIONS) as to:
        routers = at.mesh.routers
        before = [cpu_seconds(pid) for pid in routers]
        ours = await flood(
            to.routed.stat, in_flight=IN_FLIGHT, seconds=at.seconds(2.5), pids=routers
        )
        used = [
            cpu_seconds(pid) - old for pid, old in zip(routers, before, strict=True)
        ]
        bare = await flood(
            to.bare.stat,
            in_flight=IN_FLIGHT,
            seconds=at.seconds(1.5),
            pids=[to.bare.pid],
        )
        held = await _held(to.routed.stat, routers, seconds=at.seconds(1.5))
    return {
        **ours,
        "bare rate": bare["rate"].beside(),
        **beside_bare("per core", ours["per core"], bare["per core"]),
        **held,
        "busiest": Series("%", "beside", [[100 * max(used) / sum(used)]]),
    }


async def _held(
    act: Callable[[], Awaitable[None]], routers: Sequence[int], *, seconds: float
) -> dict[str, Series]:
    """Take the rate again, each Router held to a ration of a core, if that can be."""
    try:
        with rationed(routers, _RATION):
            found = await flood(act, in_flight=IN_FLIGHT, seconds=seconds)
    except NotAvailableError:
        return {}
    return {"rate, rationed": found["rate"]}


@case("exec/true@{mode}", depth="quick", mode=MODES)
async def execute(at: At, **_: str) -> Measured:
    """Run `true` in a sandbox that is there: one at a time, and 64 in flight."""
    async with ways(at.mesh) as to, floor(at.mesh, to) as bare:
        acts = to.routed.true, bare.true
        alone = await paced(*acts, seconds=at.seconds(4), warm_up=_WARM_UP // 2)
        least = await flood(bare.true, in_flight=IN_FLIGHT, seconds=at.seconds(2))
        many = await flood(to.routed.true, in_flight=IN_FLIGHT, seconds=at.seconds(4))
    return {
        **alone[0].series(),
        **many,
        **beside_bare("latency", *(each.series()["latency"] for each in alone)),
        **beside_bare("rate", many["rate"], least["rate"]),
    }


@case("code/live@{mode}", depth="quick", mode=MODES)
async def live_code(at: At, **_: str) -> Measured:
    """Run ``1+1`` by RunCode in a context that is there, through the Router."""
    async with ways(at.mesh) as to, floor(at.mesh, to) as bare:

        async def ours() -> None:
            await to.sandbox.run_code("1+1")

        async def least() -> None:
            await bare.run_code()

        alone = await paced(ours, least, seconds=at.seconds(5), warm_up=20)
    taken = [each.series()["latency"] for each in alone]
    return {"latency": taken[0], **beside_bare("latency", *taken)}
