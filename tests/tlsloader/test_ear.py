"""When a burst of changes is over."""

from __future__ import annotations

import asyncio

from tests.fakes import FakeClock
from tlsloader._ear import Ear


async def test_time_alone_is_enough() -> None:
    """Without a change it returns when its time is over."""
    clock = FakeClock()
    async with asyncio.TaskGroup() as group:
        listening = group.create_task(Ear(clock).listen(5))
        await clock.advance(4.9)
        await clock.advance(0)
        assert not listening.done()
        await clock.advance(0.1)


async def test_a_burst_is_over_after_a_pause() -> None:
    """A change that follows another within 10 ms belongs to it."""
    clock = FakeClock()
    ear = Ear(clock)
    ear.hear()
    async with asyncio.TaskGroup() as group:
        listening = group.create_task(ear.listen(60))
        for _ in range(3):
            await clock.advance(0.009)
            ear.hear()
            await clock.advance(0.001)
        await clock.advance(0.009)
        assert not listening.done()
        await clock.advance(0.001)
    assert round(clock.monotonic(), 3) == 0.04


async def test_a_burst_without_end_has_one_all_the_same() -> None:
    """Who changes something all the time is looked at after 100 ms."""
    clock = FakeClock()
    ear = Ear(clock)
    ear.hear()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(ear.listen(60))
        for _ in range(10):
            await clock.advance(0.009)
            ear.hear()
            await clock.advance(0.001)


async def test_a_change_before_it_listens_is_not_lost() -> None:
    """What was heard during a look is a reason for the next one."""
    clock = FakeClock()
    ear = Ear(clock)
    ear.hear()
    async with asyncio.TaskGroup() as group:
        group.create_task(ear.listen(60))
        await clock.advance(0.01)
    assert clock.monotonic() == 0.01
