"""Places that slow ones cannot keep."""

from __future__ import annotations

import asyncio

import pytest

from tests.tlsloader.transport import until
from tlsloader._slots import Slots


class Crowd:
    """Tasks that want a place."""

    def __init__(self, most: int, patience: float) -> None:
        self.slots = Slots(most, patience=patience)
        self.inside: list[str] = []

    async def stay(self, name: str, leave: asyncio.Event, group: str = "") -> None:
        async with self.slots.place(group):
            self.inside.append(name)
            await leave.wait()

    def come(
        self, name: str, leave: asyncio.Event, group: str = ""
    ) -> asyncio.Task[None]:
        return asyncio.ensure_future(self.stay(name, leave, group))


async def test_no_more_than_the_bound_are_inside() -> None:
    """The third waits until one of two leaves."""
    crowd, first, last = Crowd(2, 60), asyncio.Event(), asyncio.Event()
    tasks = [crowd.come("a", first), crowd.come("b", last), crowd.come("c", last)]
    await until(lambda: len(crowd.inside) == 2)
    first.set()
    await until(lambda: crowd.inside == ["a", "b", "c"])
    last.set()
    await asyncio.gather(*tasks)


async def test_the_newest_goes_first() -> None:
    """Who came late does not pay for the crowd before it."""
    crowd, leave = Crowd(1, 60), asyncio.Event()
    tasks = [crowd.come("a", leave)]
    await until(lambda: crowd.inside)
    tasks += [crowd.come("b", leave), crowd.come("c", leave)]
    await asyncio.wait(tasks, timeout=0.01)
    leave.set()
    await asyncio.gather(*tasks)
    assert crowd.inside == ["a", "c", "b"]


async def test_groups_take_turns() -> None:
    """A crowd from one address does not stand in the way of another."""
    crowd, leave = Crowd(1, 60), asyncio.Event()
    tasks = [crowd.come("first", leave, "x")]
    await until(lambda: crowd.inside)
    tasks += [crowd.come(f"x{number}", leave, "x") for number in range(3)]
    tasks += [crowd.come("y", leave, "y"), crowd.come("z", leave, "z")]
    await asyncio.wait(tasks, timeout=0.01)
    leave.set()
    await asyncio.gather(*tasks)
    assert crowd.inside == ["first", "x2", "y", "z", "x1", "x0"]


async def test_a_slow_one_loses_its_place_to_somebody_only() -> None:
    """It goes on without; while nobody waits it keeps the place."""
    crowd, later, leave = Crowd(1, 0.05), asyncio.Event(), asyncio.Event()
    slow = crowd.come("slow", later)
    await asyncio.wait([slow], timeout=0.1)
    assert len(crowd.slots._since) == 1
    good, best = crowd.come("good", leave), crowd.come("best", leave)
    await until(lambda: crowd.inside == ["slow", "best", "good"])
    leave.set()
    await asyncio.gather(good, best)
    assert not slow.done()
    later.set()
    await slow
    assert crowd.slots._free == 1  # neither lost nor given twice


async def test_who_gives_up_waiting_takes_no_place() -> None:
    """Also when its turn and its end come together."""
    crowd, first, leave = Crowd(1, 60), asyncio.Event(), asyncio.Event()
    holder = crowd.come("holder", first)
    await until(lambda: crowd.inside)
    waiting = [crowd.come("x", leave), crowd.come("y", leave)]
    await asyncio.wait(waiting, timeout=0.01)
    gone = crowd.come("gone", leave)
    await asyncio.wait([gone], timeout=0.01)
    gone.cancel()
    await asyncio.wait([gone])
    assert len(crowd.slots._waiting[""]) == 2  # it is not even remembered
    first.set()
    await asyncio.wait([holder])
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    leave.set()
    async with asyncio.timeout(2):
        await crowd.stay("next", leave)
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert not crowd.slots._waiting
