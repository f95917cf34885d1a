"""Our dialer and acceptor beside gRPC's own TLS; what targets and loaders cost."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, get_args

from benchmarks._case import At, case
from benchmarks._drive import flood
from benchmarks._series import Series, in_rounds, latency
from benchmarks._tls import Kind, call, connected, identities, own, told

if TYPE_CHECKING:
    from pathlib import Path

    import grpc.aio

    from benchmarks._case import Measured

__all__: list[str] = []

_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_OURS: Final[tuple[Kind, ...]] = ("ours", "ungated")
_APART: Final[tuple[Kind, ...]] = ("ours", "native")
_FIRST_CALLS: Final = 20
_IN_FLIGHT: Final = 64
_WARM_UP: Final = 200
_TURNS: Final = 8  # the machine's mood changes within seconds: ratios by the turn
_TURN: Final = 0.25
_TURN_WARM_UP: Final = 0.1


@case("tls/calls", depth="quick")
async def calls(at: At) -> Measured:
    """Call an echo by turns over our TLS, with and without gate, and gRPC's own."""
    with identities() as folder:
        async with told("serve", folder) as where, AsyncExitStack() as stack:
            first = await _first_calls(folder, where)
            source = await own(folder)
            ends: dict[Kind, grpc.aio.Channel] = {}
            for kind in _KINDS:
                opened = connected(kind, folder, where, source)
                ends[kind] = await stack.enter_async_context(opened)
            serial = await _serial(ends, seconds=at.seconds(2))
            rates = await _rates(ends, turns=round(at.seconds(_TURNS)))
    found = {**_beside_native(serial, rates), **first, **serial, **rates}
    return {
        name: each.beside() if name.endswith("native") else each
        for name, each in found.items()
    }


async def _first_calls(folder: Path, where: dict[str, str]) -> dict[str, Series]:
    """Connect anew for each call."""
    source = await own(folder)
    samples: dict[Kind, list[float]] = {kind: [] for kind in _APART}
    for _ in range(_FIRST_CALLS):
        for kind in _APART:
            async with connected(kind, folder, where, source) as opened:
                samples[kind].append(await _call(opened))
    return {
        f"first call, {kind}": latency(in_rounds(taken))
        for kind, taken in samples.items()
    }


async def _serial(
    ends: dict[Kind, grpc.aio.Channel], *, seconds: float
) -> dict[str, Series]:
    samples: dict[Kind, list[float]] = {kind: [] for kind in ends}
    for _ in range(_WARM_UP):
        for opened in ends.values():
            await _call(opened)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for kind, opened in ends.items():
            samples[kind].append(await _call(opened))
    return {kind: latency(in_rounds(taken)) for kind, taken in samples.items()}


async def _call(opened: grpc.aio.Channel) -> float:
    began = time.perf_counter()
    await call(opened)
    return (time.perf_counter() - began) * 1000


async def _rates(
    ends: dict[Kind, grpc.aio.Channel], *, turns: int
) -> dict[str, Series]:
    """Flood each end, again and again for a short while."""
    rounds: dict[Kind, list[list[float]]] = {kind: [] for kind in ends}
    for _ in range(turns):
        for kind, opened in ends.items():
            found = await flood(
                partial(call, opened),
                in_flight=_IN_FLIGHT,
                seconds=_TURN,
                warm_up=_TURN_WARM_UP,
            )
            rounds[kind] += [list(each) for each in found["rate"].rounds]
    return {
        f"rate, {kind}": Series("/s", "higher", taken) for kind, taken in rounds.items()
    }


def _beside_native(serial: dict[str, Series], rates: dict[str, Series]) -> Measured:
    """Return, for each kind of ours, its share of gRPC's rate and what a call costs."""
    found: dict[str, Series] = {}
    natives = rates["rate, native"].samples
    for kind in _OURS:
        pairs = zip(rates[f"rate, {kind}"].samples, natives, strict=True)
        ratios = [[ours / native] for ours, native in pairs]
        more = serial[kind].percentile(50) - serial["native"].percentile(50)
        found[f"ratio of rates, {kind}"] = Series("x", "higher", ratios)
        found[f"p50 above, {kind}"] = Series("ms", "lower", [[more]])
    return found


@case("tls/targets")
async def targets(at: At) -> Measured:
    """Weigh 1,000 connected targets in a process that has nothing else."""
    del at
    found: dict[str, Series] = {}
    with identities() as folder:
        async with told("serve", folder) as where:
            for kind in _APART:
                async with told("targets", folder, json.dumps(where), kind) as said:
                    found[kind] = Series("KiB", "lower", [[said["kib"]]])
    return {"ours": found["ours"], "native": found["native"].beside()}


@case("tls/loader")
async def loader(at: At) -> Measured:
    """Follow files that nobody changes."""
    del at
    with identities() as folder:
        async with told("loader", folder) as said:
            return {"cpu": Series("%", "lower", [[said["share"]]])}
