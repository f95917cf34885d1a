"""Places that slow ones cannot keep."""

from __future__ import annotations

import asyncio

import pytest

from tests.tlsloader.transport import until
from tlsloader._slots import Slots


class Crowd:
    """Tasks that want a place."""

    def __init__(self, most: int, patience: float) -> None:
        self.displaced = 0
        self.slots = Slots(most, patience=patience, displaced=self._count)
        self.inside: list[str] = []

    def _count(self) -> None:
        self.displaced += 1

    async def stay(self, name: str, until_then: asyncio.Event) -> None:
        async with self.slots.place():
            self.inside.append(name)
            await until_then.wait()

    def come(self, name: str, leave: asyncio.Event) -> asyncio.Task[None]:
        return asyncio.ensure_future(self.stay(name, leave))


async def test_no_more_than_the_bound_are_inside() -> None:
    """The third waits until one of two leaves."""
    crowd, first, last = Crowd(2, 60), asyncio.Event(), asyncio.Event()
    tasks = [crowd.come("a", first), crowd.come("b", last), crowd.come("c", last)]
    await until(lambda: len(crowd.inside) == 2)
    first.set()
    await until(lambda: crowd.inside == ["a", "b", "c"])
    last.set()
    await asyncio.gather(*tasks)
    assert crowd.displaced == 0


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


async def test_a_slow_one_makes_room_only_for_somebody() -> None:
    """Alone it may take its time; when somebody waits, it is cancelled."""
    crowd, never, leave = Crowd(1, 0.05), asyncio.Event(), asyncio.Event()
    slow = crowd.come("slow", never)
    await asyncio.wait([slow], timeout=0.1)
    assert not slow.done()
    good = crowd.come("good", leave)
    await until(lambda: crowd.inside == ["slow", "good"])
    assert slow.cancelled()
    assert crowd.displaced == 1
    leave.set()
    await good


async def test_who_gives_up_waiting_takes_no_place() -> None:
    """Also when its turn and its end come together."""
    crowd, first, leave = Crowd(1, 60), asyncio.Event(), asyncio.Event()
    holder = crowd.come("holder", first)
    await until(lambda: crowd.inside)
    waiting = [crowd.come("x", leave), crowd.come("y", leave)]
    await asyncio.wait(waiting, timeout=0.01)
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
