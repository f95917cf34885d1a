"""Latency counts from when an act was due, and undoing it counts for nothing."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks._drive import burst, flood, paced

if TYPE_CHECKING:
    from benchmarks._drive import Undo

pytestmark = pytest.mark.slow


class Server:
    """Takes *takes* seconds for each act; act *stall* holds all of them up."""

    def __init__(self, takes: float, stall: int = -1, stalls: float = 0.0) -> None:
        self._takes, self._stall, self._stalls = takes, stall, stalls
        self._free = asyncio.Event()
        self._free.set()
        self.acts = self.undone = self.running = self.most = 0

    async def act(self) -> Undo:
        stalls = self.acts == self._stall
        self.acts += 1
        self.running += 1
        self.most = max(self.most, self.running)
        if stalls:
            self._free.clear()
            await asyncio.to_thread(time.sleep, self._stalls)
            self._free.set()
        await self._free.wait()
        await asyncio.to_thread(time.sleep, self._takes)
        self.running -= 1
        return self._undo

    async def _undo(self) -> str:
        await asyncio.to_thread(time.sleep, self._takes)
        self.undone += 1
        return "even" if self.undone % 2 == 0 else "odd"


async def test_a_stall_makes_those_late_that_were_due_meanwhile() -> None:
    """The schedule goes on while the server stalls: nothing is left out."""
    server = Server(0.01, stall=8, stalls=1.0)
    (taken,) = await paced(server.act, seconds=1.5, warm_up=2)
    series = taken.series()["latency"]
    late = [sample for sample in series.samples if sample > 300]
    assert len(late) >= 3
    assert late[0] == max(late) > 1000


async def test_undoing_is_not_measured_and_names_the_sample() -> None:
    """Every act is undone, the warm-up too; labels make series of their own."""
    server = Server(0.01)
    (taken,) = await paced(server.act, seconds=0.5, warm_up=2)
    series = taken.series()
    assert server.undone == server.acts
    assert series["latency"].percentile(50) < 2 * 0.01 * 1000 + 20
    parts = [len(series[f"latency, {name}"].samples) for name in ("even", "odd")]
    assert sum(parts) == len(series["latency"].samples) == server.acts - 2
    assert taken.share("even").typical == pytest.approx(50, abs=15)


async def test_a_burst_is_due_at_once() -> None:
    """All run together, each counts from the same moment, and a burst is a round."""
    server, full = Server(0.02), []

    async def before() -> None:
        full.append(server.acts)

    (taken,) = await burst(server.act, at_once=5, seconds=0.05, before=before)
    assert server.most == 5
    assert [len(each) for each in taken.rounds] == [5] * len(taken.rounds)
    assert full == [5 * number for number in range(len(taken.rounds))]
    assert server.undone == server.acts


async def test_several_acts_take_turns() -> None:
    """One is due behind the other, and each has its own samples."""
    order: list[str] = []

    async def ours() -> None:
        order.append("ours")

    async def bare() -> None:
        order.append("bare")

    one, other = await paced(ours, bare, seconds=0, warm_up=1)
    assert order == 6 * ["ours", "bare"]
    assert len(one.series()["latency"].samples) == 5
    assert len(other.series()["latency"].samples) == 5
    order.clear()
    await burst(ours, bare, at_once=2, seconds=0)
    assert order == ["ours", "ours", "bare", "bare"]


async def test_a_burst_survives_a_failure() -> None:
    """One that fails is counted; only if all fail is there nothing to tell."""
    answers = iter([True, False, False, False])

    async def act() -> None:
        if not next(answers):
            raise ConnectionError("full")

    (taken,) = await burst(act, at_once=2, seconds=0)
    assert len(taken.series()["latency"].samples) == 1
    assert len(taken.failures) == 1
    with pytest.raises(ConnectionError):
        (await burst(act, at_once=2, seconds=0))[0].series()


async def test_a_flood_counts_what_ends() -> None:
    """So many are under way at any time, and the rate is what they give together."""
    server = Server(0.01)
    rate = (await flood(server.act, in_flight=4, seconds=1))["rate"]
    assert server.most == 4
    assert 20 < rate.typical < 4 / 0.02
