"""Run cases, one after the other, each on the mesh that it needs."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, Self

import psutil

from benchmarks._case import At, NotAvailableError
from benchmarks._echo import echo
from benchmarks._machine import Others, facts
from benchmarks._results import Outcome, Results
from benchmarks._setup import Setup, running
from benchmarks._targets import MESH, PARTS
from clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks._case import Case, Depth
    from benchmarks._mesh import Mesh

    Tell = Callable[[str, Outcome], None]

__all__ = ["measure"]

_LONGEST: Final = 120.0  # seconds that one case may take, with the start of its mesh
_OVERTIME: Final = 50.0  # and how long after the last may begin it may go on
_LEFT: Final = "no time was left"


async def measure(
    cases: Iterable[Case], *, depth: Depth, minutes: float, tell: Tell
) -> Results:
    """Run *cases* for at most about so many *minutes*, the rows of the table first.

    Those that need the same mesh share it. *tell* hears of each as it ends. What there
    is no time for is marked as missing.
    """
    results = Results(SYSTEM.now().isoformat(), depth, await asyncio.to_thread(facts))
    others, until = Others(), time.monotonic() + 60 * minutes
    results.yardstick["before"] = await echo()
    for setup, group in _in_order(cases):
        async with _Place(setup) as place:
            for each in group:
                outcome = await _outcome(each, place, depth, until)
                results.cases[each.name] = outcome
                tell(each.name, outcome)
    results.yardstick["after"] = await echo()
    load = round(psutil.getloadavg()[0], 2)
    results.machine |= {"load_after": load, **others.cores()}
    return results


def _in_order(cases: Iterable[Case]) -> list[tuple[Setup | None, list[Case]]]:
    """Group *cases* by the mesh they need, those that matter most first.

    Should the time run out, it is the rest that is left out.
    """
    groups: dict[tuple[int, Setup | None], list[Case]] = {}
    for each in sorted(cases, key=_turn):
        groups.setdefault((_turn(each)[0], each.setup), []).append(each)
    return [(setup, group) for (_, setup), group in groups.items()]


def _turn(case: Case) -> tuple[int, int]:
    """Return when it is the turn of *case*: rows of the tables, stages, the rest."""
    row = case.name.partition("@")[0]
    for table, rows in enumerate((MESH, PARTS)):
        names = [each.case for each in rows]
        if row in names:
            return table, names.index(row)
    return (2 if row.startswith("stages/") else 3), 0


class _Place:
    """Where a group of cases runs; its mesh is made for the first of them."""

    def __init__(self, setup: Setup | None) -> None:
        self._setup, self._stack = setup, AsyncExitStack()
        self._made: Mesh | None = None
        self._fault: Exception | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def mesh(self) -> Mesh | None:
        """Return the mesh; one that cannot be is tried only once."""
        if self._fault is not None:
            raise self._fault
        if self._setup is not None and self._made is None:
            try:
                opened = running(self._setup)
                self._made = await self._stack.enter_async_context(opened)
            except Exception as error:
                self._fault = error
                raise
        return self._made


async def _outcome(case: Case, place: _Place, depth: Depth, until: float) -> Outcome:
    outcome, began = Outcome(case.about), time.monotonic()
    if began > until:
        outcome.missing = _LEFT
        return outcome
    try:
        async with asyncio.timeout(min(_LONGEST, until - began + _OVERTIME)):
            outcome.series = dict(await case.run(At(depth, await place.mesh())))
    except NotAvailableError as error:
        outcome.missing = str(error)
    except Exception as error:  # noqa: BLE001 - the other cases shall still be run
        outcome.failed = f"{type(error).__name__}: {error}".strip(": ")
    outcome.seconds = time.monotonic() - began
    return outcome
