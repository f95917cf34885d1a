"""The three ways to put load on something: paced, in bursts, flooded.

Latency counts from when an act was *due*, not from when we got round to it: a system
that stalls must not slow its own measurement down (coordinated omission). So `paced`
and `burst` are open loops. `flood` is a closed one, for rates only: its latencies would
say how many wait in line, and are not kept.

An act may return what undoes it. That is awaited outside of the measured time, and may
return a label: its sample then counts in a series of that name, too.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from benchmarks._machine import cpu_seconds
from benchmarks._series import ROUNDS, Series, in_rounds, latency
from clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Undo = Callable[[], Awaitable[str | None]]
    Act = Callable[[], Awaitable[Undo | None]]

__all__ = ["Taken", "burst", "flood", "paced"]

_WARM_UP: Final = 5
_FEWEST: Final = 5
_MOST: Final = 20_000
_SLACK: Final = 1.5  # how much longer than an act takes is the time between two
_FLOOD_WARM_UP: Final = 0.5
_SLICE: Final = 0.5  # the shortest that a rate is taken over
_AT_ONCE: Final = 64  # who wants more from one at a time is not served any better


@dataclass(slots=True)
class Taken:
    """Milliseconds with their labels, by rounds; and how often an act failed."""

    rounds: list[list[tuple[float, str | None]]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def series(self) -> dict[str, Series]:
        """Return all latencies as one series, and those of each label as another.

        Raises:
            Exception: the first failure, if nothing else was seen.
        """
        if self.failures and not any(self.rounds):
            raise self.failures[0]
        labels = {label for each in self.rounds for _, label in each if label}
        found = {f"latency, {label}": self._of(label) for label in sorted(labels)}
        return {"latency": self._of(None), **found}

    def share(self, label: str) -> Series:
        """Return how many percent of each round had *label*."""
        labels = ([each for _, each in taken] for taken in self.rounds if taken)
        shares = [[100 * each.count(label) / len(each)] for each in labels]
        return Series("%", "higher", shares)

    def _of(self, wanted: str | None) -> Series:
        return latency(
            [ms for ms, label in each if wanted in {None, label}]
            for each in self.rounds
        )


async def paced(*acts: Act, seconds: float, warm_up: int = _WARM_UP) -> list[Taken]:
    """Have one act fall due after the other, on a fixed schedule, for *seconds*.

    From one to the next it leaves half as much again as an act takes with its undoing,
    so that mostly one is under way; should one take longer, the next begins all the
    same. Several *acts* take turns, and what each took is returned in their order.
    """
    every = [await _usual(act, warm_up) for act in acts]
    turns = min(_MOST, max(_FEWEST, round(seconds / sum(every))))
    begun: list[list[asyncio.Task[tuple[float, str | None]]]] = [[] for _ in acts]
    places, due = asyncio.Semaphore(_AT_ONCE), time.perf_counter()

    async def one(act: Act, due: float) -> tuple[float, str | None]:
        async with places:
            took, undo = await _timed(act, due)
            return took, await _undone(undo)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(turns):
                for act, pause, own in zip(acts, every, begun, strict=True):
                    await _until(due)
                    own.append(tasks.create_task(one(act, due)))
                    due += pause
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    samples = ([task.result() for task in own] for own in begun)
    return [Taken([list(each) for each in in_rounds(taken)]) for taken in samples]


async def _usual(act: Act, warm_up: int) -> float:
    """Return how long after the start of *act* another one may begin."""
    takes = [await _whole(act) for _ in range(max(1, warm_up))]
    return statistics.median(takes) * _SLACK


async def _until(due: float) -> None:
    if (early := due - time.perf_counter()) > 0:
        await SYSTEM.sleep(early)


async def _whole(act: Act) -> float:
    began = time.perf_counter()
    if (undo := await act()) is not None:
        await undo()
    return time.perf_counter() - began


async def burst(
    *acts: Act,
    at_once: int,
    seconds: float,
    before: Callable[[], Awaitable[object]] | None = None,
) -> list[Taken]:
    """Have *at_once* acts fall due together; again, at least once, for *seconds*.

    *before* is awaited ahead of each burst, e.g. until a pool is full. A burst is a
    round. Several *acts* take turns, the first one behind *before*.
    """
    seen, until = [Taken() for _ in acts], time.perf_counter() + seconds
    while not seen[0].rounds or time.perf_counter() < until:
        if before is not None:
            await before()
        for act, taken in zip(acts, seen, strict=True):
            await _together(act, at_once, taken)
    return seen


async def _together(act: Act, at_once: int, seen: Taken) -> None:
    due = time.perf_counter()
    acts = (_timed(act, due) for _ in range(at_once))
    outcomes = await asyncio.gather(*acts, return_exceptions=True)
    done = [each for each in outcomes if not isinstance(each, BaseException)]
    seen.failures += [each for each in outcomes if isinstance(each, Exception)]
    labels = await asyncio.gather(*(_undone(undo) for _, undo in done))
    took = [ms for ms, _ in done]
    seen.rounds.append(list(zip(took, labels, strict=True)))


async def _timed(act: Act, due: float) -> tuple[float, Undo | None]:
    undo = await act()
    return (time.perf_counter() - due) * 1000, undo


async def _undone(undo: Undo | None) -> str | None:
    return None if undo is None else await undo()


async def flood(
    act: Act,
    *,
    in_flight: int,
    seconds: float,
    pids: Sequence[int] = (),
    warm_up: float = _FLOOD_WARM_UP,
) -> dict[str, Series]:
    """Keep *in_flight* acts under way; return how many end in a second.

    The first *warm_up* seconds do not count. The clients share the machine with all
    else, so with *pids* also how many end in a second of processor time that these
    use: what one core would give.
    """
    count, over = 0, False

    async def one_after_another() -> None:
        nonlocal count
        while not over:
            await _undone(await act())
            count += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(one_after_another())
        await SYSTEM.sleep(warm_up)
        looks = [(time.perf_counter(), count, _used(pids))]
        slices = min(ROUNDS, max(1, int(seconds / _SLICE)))
        for _ in range(slices):
            await SYSTEM.sleep(seconds / slices)
            looks.append((time.perf_counter(), count, _used(pids)))
        over = True
    return _rates(looks)


def _used(pids: Sequence[int]) -> float:
    return sum(map(cpu_seconds, pids))


def _rates(looks: list[tuple[float, int, float]]) -> dict[str, Series]:
    per_second, per_core = [], []
    for (began, first, unused), (ended, last, used) in pairwise(looks):
        per_second.append([(last - first) / (ended - began)])
        if used > unused:
            per_core.append([(last - first) / (used - unused)])
    rates = {"rate": Series("/s", "higher", per_second)}
    return rates | ({"per core": Series("/s", "higher", per_core)} if per_core else {})
