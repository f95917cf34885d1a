"""Sandboxes made ahead: who gets them, how many there are, and what if one fails."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clock import SYSTEM
from tests.workloadmanager.engine import SHORT, FakeEngine, House, until, wish
from workloadmanager._demand import Bounds, Capacity, Demand
from workloadmanager._errors import (
    BindingError,
    PoolExhaustedError,
    SandboxStartError,
)
from workloadmanager._feed import Event, Waiting
from workloadmanager._pool import Pool
from workloadmanager._templates import PYTHON, Templates
from workloadmanager._values import Start
from workloadmanager._wire import event_to_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes import FakeClock

TWO = Capacity(100, Bounds(2, 8))
NONE = replace(PYTHON, min_ready=0, max_ready=0)


@asynccontextmanager
async def warmed(
    folder: Path,
    clock: FakeClock,
    *,
    capacity: Capacity = TWO,
    engine: FakeEngine | None = None,
    ready: int = 2,
) -> AsyncIterator[House]:
    """Open a house with only one kind made ahead, once so many are ready."""
    async with House.open(folder, clock, capacity=capacity, engine=engine) as house:
        house.sessions.templates.become(Templates([SHORT, NONE]))
        await waiting(house, ready)
        yield house


async def waiting(house: House, number: int) -> None:
    """Return once so many are ready."""
    await until(lambda: house.sessions.pools.ready.get("short") == number)


async def refilled(house: House, clock: FakeClock, number: int) -> None:
    """Let time pass until so many are ready."""
    async with asyncio.timeout(10):
        while house.sessions.pools.ready["short"] < number:
            await clock.advance(0.05)
            await SYSTEM.sleep(0)


async def test_a_session_finds_a_sandbox_that_only_has_to_be_bound(
    tmp_path: Path, clock: FakeClock
) -> None:
    """It says so, on the terms that hold now, and another takes the empty place."""
    async with warmed(tmp_path, clock) as house:
        ready = {*house.engine.alive}
        made = await house.sessions.create(wish(environment={"A": "1"}))
        assert made.sandbox_id in ready
        assert made.start is Start.WARM
        assert made.expires_at == clock.now() + SHORT.default_lifetime
        assert house.engine.bound[made.sandbox_id].environment == {"A": "1"}
        assert house.engine.begun == 2
        assert await house.store.find(made.session_id) == made
        await refilled(house, clock, 2)
        assert house.engine.begun == 3


async def test_routers_are_told_which_sandboxes_wait(
    tmp_path: Path, clock: FakeClock
) -> None:
    """By address and identity; one that is claimed is not among them any more."""
    async with warmed(tmp_path, clock) as house:
        watching = house.sessions.feed.watch()
        async with aclosing(watching) as events, asyncio.timeout(5):
            waits = {*house.engine.alive}
            await _told(events, waits)
            made = await house.sessions.create(wish())
            told = await _told(events, waits - {made.sandbox_id})
            wire = event_to_wire(told).waiting.sandboxes
            assert [each.spiffe_id for each in wire] == [
                each.spiffe_id for each in told.sandboxes
            ]


async def _told(events: AsyncIterator[Event], waits: set[str]) -> Waiting:
    """Return the word that just these wait; at first there may have been fewer."""
    async for told in events:
        if not isinstance(told, Waiting):
            continue
        if {each.sandbox_id for each in told.sandboxes} == waits:
            return told
    raise AssertionError(waits)


async def test_an_empty_pool_costs_nobody_time(
    tmp_path: Path, clock: FakeClock
) -> None:
    """A sandbox is made at once, cold."""
    async with warmed(tmp_path, clock) as house:
        made = [await house.sessions.create(wish()) for _ in range(3)]
        assert [each.start for each in made] == [Start.WARM, Start.WARM, Start.COLD]
        assert house.sessions.maker.starts == {Start.WARM: 2, Start.COLD: 1}


async def test_a_pool_of_none_makes_nothing_ahead(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Whoever wants no idle sandboxes has none."""
    async with warmed(tmp_path, clock, capacity=Capacity(100), ready=0) as house:
        assert (await house.sessions.create(wish())).start is Start.COLD
        await clock.advance(60)
        assert house.engine.begun == 1


async def test_as_many_wait_as_were_asked_for_within_a_minute(
    tmp_path: Path, clock: FakeClock
) -> None:
    """At most as many as may be; when nobody comes any more, the least."""
    async with warmed(tmp_path, clock) as house:
        for _ in range(12):
            await house.sessions.create(wish())
        await refilled(house, clock, 8)
        await clock.advance(5)
        assert house.sessions.pools.ready["short"] == 8
        await clock.advance(60)
        await waiting(house, 2)
        await until(lambda: len(house.engine.forgotten) == 6)
        assert house.engine.forgotten == house.engine.destroyed


def test_a_refill_waits_for_a_quiet_moment_but_not_for_ever() -> None:
    """A session that was just made needs the processor for its first call."""
    pool = Pool(SHORT, Bounds(1, 1))
    assert pool.next_making(10.0) <= 10.0
    pool.claim(10.1)
    assert pool.next_making(10.1) == pytest.approx(10.15)
    pool.claim(10.14)
    assert pool.next_making(10.14) == pytest.approx(10.19)
    pool.claim(10.24)
    assert pool.next_making(10.24) == 10.25


async def test_somebody_who_waits_comes_before_everything_made_ahead(
    tmp_path: Path, clock: FakeClock
) -> None:
    """While a sandbox is made for a session, none is made for nobody."""
    capacity = Capacity(100, Bounds(0, 8))
    async with warmed(tmp_path, clock, capacity=capacity, ready=0) as house:
        house.engine.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(house.sessions.create(wish()))
            await until(lambda: house.engine.begun == 1)
            await clock.advance(1)
            assert house.engine.begun == 1
            house.engine.gate.set()
        await refilled(house, clock, 1)


async def test_a_sandbox_that_does_not_confirm_is_never_handed_out(
    tmp_path: Path, clock: FakeClock
) -> None:
    """It is destroyed, whether it has the session or not; the caller gets another."""
    async with warmed(tmp_path, clock) as house:
        house.engine.refusal = BindingError("DEADLINE_EXCEEDED")
        made = await house.sessions.create(wish(request_id="r"))
        assert made.start is Start.COLD
        (gone,) = house.engine.destroyed
        assert gone in house.engine.bound
        assert gone != made.sandbox_id
        assert [each.session_id for each in await house.store.load()] == [
            made.session_id
        ]
        assert (await house.sessions.create(wish(request_id="r"))) == made


async def test_a_claim_whose_caller_vanishes_leaves_nothing(
    tmp_path: Path, clock: FakeClock
) -> None:
    """The sandbox may know a secret by then: it goes, and does not wait again."""
    async with warmed(tmp_path, clock) as house:
        house.engine.binding.clear()
        async with asyncio.TaskGroup() as tasks:
            caller = tasks.create_task(house.sessions.create(wish()))
            await until(lambda: house.engine.bound)
            (claimed,) = house.engine.bound
            caller.cancel()
        await until(lambda: house.engine.destroyed == [claimed])
        await until(lambda: len(house.sessions) == 0)
        assert await house.store.load() == []
        assert house.sessions.pools.ready["short"] == 1


async def test_a_caller_who_vanishes_while_a_claim_is_undone_gets_no_other(
    tmp_path: Path, clock: FakeClock
) -> None:
    """The sandbox that failed is destroyed, and none is made in its place."""
    async with warmed(tmp_path, clock) as house:
        house.engine.refusal = BindingError("UNAVAILABLE")
        house.engine.stubborn = 1
        async with asyncio.TaskGroup() as tasks:
            caller = tasks.create_task(house.sessions.create(wish()))
            await until(lambda: not house.engine.stubborn)
            caller.cancel()
        await clock.advance(1)
        await until(lambda: house.engine.destroyed)
        await until(lambda: len(house.sessions) == 0)
        assert len(house.engine.bound) == 1


async def test_a_claimed_sandbox_never_waits_again(
    tmp_path: Path, clock: FakeClock
) -> None:
    """It ends with its session."""
    async with warmed(tmp_path, clock) as house:
        made = await house.sessions.create(wish())
        await house.sessions.delete(made.session_id)
        assert house.engine.destroyed == [made.sandbox_id]
        assert house.sessions.pools.ready["short"] == 1


async def test_what_cannot_start_does_not_spin(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails with its reason, rests ever longer, and works again once it can."""
    engine = FakeEngine()
    engine.fault = SandboxStartError("/no/such/python")
    async with warmed(tmp_path, clock, engine=engine, ready=0) as house:
        for pause in (1, 2, 4, 8):
            failures = engine.begun
            await until(lambda: len(engine.destroyed) == engine.begun)
            await clock.advance(pause - 0.1)
            assert engine.begun == failures
            await clock.advance(0.2)
            await until(lambda: engine.begun == failures + 1)  # noqa: B023
        assert house.sessions.pools.failures == {"short": 5}
        told = [each for each in caplog.records if each.message == "nothing made ahead"]
        assert {each.__dict__["reason"] for each in told} == {"/no/such/python"}
        with pytest.raises(SandboxStartError):  # nor does it keep anybody waiting
            await house.sessions.create(wish())
        assert engine.alive == {}
        engine.fault = None
        await clock.advance(17)
        await refilled(house, clock, 2)


async def test_one_that_dies_while_it_waits_is_handed_to_nobody(
    tmp_path: Path, clock: FakeClock
) -> None:
    """It is replaced, after a pause: it might do so again."""
    async with warmed(tmp_path, clock) as house:
        dead = next(iter(house.engine.alive))
        house.engine.died(dead, "SANDBOX_UNREACHABLE")
        assert house.sessions.pools.ready["short"] == 1
        await until(lambda: house.engine.destroyed == [dead])
        assert house.engine.forgotten == []  # its log may say why
        await refilled(house, clock, 2)
        assert clock.monotonic() >= 1


async def test_sandboxes_of_nobody_make_room_for_sessions(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Never more than may be: what waits for nobody goes first."""
    async with warmed(tmp_path, clock, capacity=Capacity(3, Bounds(2, 2))) as house:
        for number in range(1, 4):
            made = await house.sessions.create(wish(template="python"))
            assert made.start is Start.COLD
            assert len(house.engine.alive) <= 3
            assert house.sessions.pools.ready["short"] == min(2, 3 - number)
        with pytest.raises(PoolExhaustedError) as caught:
            await house.sessions.create(wish())
        assert caught.value.retry_after > 0
        await clock.advance(60)
        assert house.engine.begun == 5


async def test_a_crowd_is_served_or_told_to_come_again(
    tmp_path: Path, clock: FakeClock
) -> None:
    """200 at once for 50 places: 50 sessions, 150 clear refusals, nothing left over."""
    capacity = Capacity(50, Bounds(8, 8))
    async with warmed(tmp_path, clock, capacity=capacity, ready=8) as house:
        crowd = [house.sessions.create(wish()) for _ in range(200)]
        came = await asyncio.gather(*crowd, return_exceptions=True)
        made = [each for each in came if not isinstance(each, BaseException)]
        refused = [each for each in came if isinstance(each, PoolExhaustedError)]
        assert (len(made), len(refused)) == (50, 150)
        assert len(house.engine.alive) == len(house.sessions) == 50
        assert sum(each.start is Start.WARM for each in made) == 8
        await house.sessions.delete_all("test")
        assert await house.store.load() == []
        assert all(each.retry_after >= 1 for each in refused)


async def test_a_changed_template_ends_what_was_made_by_the_old_one(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Also what is being made just then; the next session has the new terms."""
    async with warmed(tmp_path, clock) as house:
        old = {*house.engine.alive}
        house.sessions.templates.become(
            Templates([replace(SHORT, environment={"NEW": "1"}), NONE])
        )
        made = await house.sessions.create(wish())
        assert made.sandbox_id not in old
        assert house.engine.bound[made.sandbox_id].environment == {"NEW": "1"}
        await clock.advance(5)
        await until(lambda: {*house.engine.destroyed} == old)
        await refilled(house, clock, 2)


async def test_what_was_made_ahead_ends_with_the_service(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Also half-made ones; the sandboxes of sessions live on."""
    engine = FakeEngine()
    async with warmed(tmp_path, clock, engine=engine) as house:
        made = await house.sessions.create(wish())
        engine.gate.clear()
        while engine.begun < 3:
            await clock.advance(0.05)
            await SYSTEM.sleep(0)
    assert [*engine.alive] == [made.sandbox_id]


async def test_a_clock_that_jumps_harms_no_sandbox_that_waits(
    tmp_path: Path, clock: FakeClock
) -> None:
    """A session's time begins with the session, by the clock of that moment."""
    async with warmed(tmp_path, clock) as house:
        for jump in (86_400, -172_800):
            clock.set_wall(jump)
            made = await house.sessions.create(wish())
            assert made.start is Start.WARM
            assert made.expires_at == clock.now() + SHORT.default_lifetime
            await clock.advance(1)
            assert len(house.sessions) == 1
            await house.sessions.delete(made.session_id)
            await refilled(house, clock, 2)


@given(st.integers(0, 9), st.integers(0, 9), st.lists(st.floats(0, 100), max_size=40))
def test_demand_keeps_its_bounds(least: int, more: int, claims: list[float]) -> None:
    """Whatever was asked for when; and it is forgotten after a minute."""
    bounds = Bounds(least, least + more)
    demand, now = Demand(bounds), 0.0
    for pause in claims:
        now += pause
        demand.note(now)
        assert bounds.least <= demand.wanted(now) <= bounds.most
    assert demand.wanted(now + 60.001) == bounds.least


@pytest.mark.parametrize(
    ("least", "most", "bounds"),
    [
        (None, None, Bounds(1, 8)),
        (3, None, Bounds(3, 8)),
        (20, None, Bounds(20, 20)),
        (None, 0, Bounds(0, 0)),
        (0, 2, Bounds(0, 2)),
    ],
)
def test_what_a_template_says_wins(
    least: int | None, most: int | None, bounds: Bounds
) -> None:
    """Over the service's own figures, and so that least and most fit together."""
    assert Bounds(1, 8).or_rather(least, most) == bounds
