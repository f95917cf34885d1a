from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from tests.fakes import FakeClock, running
from tests.workloadmanager.engine import until
from workloadmanager._timers import Timers

if TYPE_CHECKING:
    from collections.abc import Sequence


async def collect(timers: Timers[str], into: list[str]) -> None:
    async for key in timers.due():
        into.append(key)  # noqa: PERF401  # seen while it grows


async def test_each_key_is_due_once_at_its_time(clock: FakeClock) -> None:
    """Neither early nor twice, in the order of the deadlines."""
    timers: Timers[str] = Timers(clock)
    due: list[str] = []
    timers.set("second", clock.now() + timedelta(seconds=2))
    timers.set("first", clock.now() + timedelta(seconds=1))
    async with running(collect(timers, due)):
        await clock.advance(0.999)
        assert due == []
        await clock.advance(0.001)
        await until(lambda: due)
        await clock.advance(1)
        await until(lambda: len(due) == 2)
    assert due == ["first", "second"]
    assert len(timers) == 0


async def test_a_sooner_deadline_wakes_the_sleeper(clock: FakeClock) -> None:
    """A deadline set while the job sleeps towards a later one is not missed."""
    timers: Timers[str] = Timers(clock)
    due: list[str] = []
    timers.set("late", clock.now() + timedelta(seconds=20))
    async with running(collect(timers, due)):
        await clock.advance(0)
        timers.set("soon", clock.now() + timedelta(seconds=1))
        timers.set("now", clock.now())
        await until(lambda: due == ["now"])
        await clock.advance(1)
        await until(lambda: due == ["now", "soon"])


async def test_moved_and_dropped_deadlines_do_not_fire(clock: FakeClock) -> None:
    """Only the last word on a key counts."""
    timers: Timers[str] = Timers(clock)
    due: list[str] = []
    start = clock.now()
    for key in ("moved", "dropped", "kept"):
        timers.set(key, start + timedelta(seconds=1))
    timers.set("moved", start + timedelta(seconds=9))
    timers.drop("dropped")
    async with running(collect(timers, due)):
        await clock.advance(1)
        await until(lambda: due)
        assert due == ["kept"]


async def test_a_wall_clock_set_forward_is_noticed(clock: FakeClock) -> None:
    """A sleep never outlasts half a minute, whatever the deadline is."""
    timers: Timers[str] = Timers(clock)
    due: list[str] = []
    timers.set("far", clock.now() + timedelta(days=1))
    async with running(collect(timers, due)):
        await clock.advance(0)
        clock.jump(86400)
        await clock.advance(30)
        await until(lambda: due == ["far"])


def test_moving_a_deadline_often_costs_no_memory(clock: FakeClock) -> None:
    """A session touched for months must not fill the heap with old deadlines."""
    timers: Timers[str] = Timers(clock)
    for second in range(10_000):
        timers.set("busy", clock.now() + timedelta(seconds=second))
    heap: Sequence[object] = timers._heap
    assert len(heap) < 100
