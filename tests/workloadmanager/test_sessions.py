from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.workloadmanager.engine import (
    ANN,
    BOB,
    SHORT,
    FakeEngine,
    House,
    sleeper,
    until,
    wish,
)
from workloadmanager._deadlines import Touch
from workloadmanager._demand import Capacity
from workloadmanager._engine import Activity
from workloadmanager._errors import (
    ClosingError,
    InvalidRequestError,
    PoolExhaustedError,
    RequestMismatchError,
    SandboxStartError,
    SessionExpiredError,
    SessionNotFoundError,
    TemplateNotFoundError,
)
from workloadmanager._feed import ActivityQuery, Changed, Event
from workloadmanager._values import Session, State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable
    from pathlib import Path

    from tests.fakes import FakeClock

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


async def outcome(creating: Awaitable[Session]) -> Session | Exception:
    """Return what came of it; a failure, too, is an outcome."""
    try:
        return await creating
    except SandboxStartError as error:
        return error


async def next_of(events: AsyncGenerator[Event, None], kind: type[Event]) -> Event:
    async with asyncio.timeout(5):
        while not isinstance(event := await anext(events), kind):
            pass
        return event


async def over(house: House, session: Session) -> SessionExpiredError:
    """Wait until *session* is over and nothing is left of it."""
    await until(lambda: session.sandbox_id in house.engine.destroyed)
    with pytest.raises(SessionExpiredError) as caught:
        await house.sessions.find(session.session_id)
    return caught.value


async def test_a_session_is_made_and_told(house: House, clock: FakeClock) -> None:
    """It is ready, kept, told to those who watch, and on the terms of its template."""
    async with aclosing(house.sessions.feed.watch()) as events:
        await anext(events)
        made = await house.sessions.create(wish(environment={"A": "1"}))
        told = await next_of(events, Changed)
    assert isinstance(told, Changed)
    assert told.session == made
    assert made.state is State.READY
    assert made.expires_at == clock.now() + SHORT.default_lifetime
    assert made.idle_timeout == SHORT.idle_timeout
    assert await house.sessions.find(made.session_id) == made
    assert await house.store.find(made.session_id) == made
    assert house.engine.bound[made.sandbox_id].environment == {"A": "1"}


async def test_what_limits_did_is_asked_for(house: House, clock: FakeClock) -> None:
    """Who looks at a session is told what last happened in its sandbox."""
    session = await house.sessions.create(wish())
    assert (await house.sessions.look(session.session_id)).last_fault == ""
    house.engine.says = Activity(0, clock.now(), "OUT_OF_MEMORY")
    assert (await house.sessions.look(session.session_id)).last_fault == "OUT_OF_MEMORY"
    house.engine.says = None
    assert (await house.sessions.look(session.session_id)).last_fault == "OUT_OF_MEMORY"
    await house.sessions.delete(session.session_id)
    with pytest.raises(SessionExpiredError) as caught:
        await house.sessions.look(session.session_id)
    assert caught.value.metadata["last_fault"] == "OUT_OF_MEMORY"


async def test_a_sandbox_outlives_its_longest_possible_session(house: House) -> None:
    """Its own alarm must never ring before a session that was extended is over."""
    made = await house.sessions.create(wish())
    binding = house.engine.bound[made.sandbox_id]
    assert binding.expires_at > made.created_at + SHORT.maximum_lifetime


async def test_a_failed_making_leaves_nothing(house: House) -> None:
    """Neither sandbox, nor session, nor the request id."""
    house.engine.fault = SandboxStartError("it crashed")
    with pytest.raises(SandboxStartError):
        await house.sessions.create(wish(request_id="r"))
    assert house.engine.alive == {}
    assert len(house.sessions) == 0
    assert await house.store.load() == []
    house.engine.fault = None
    assert await house.sessions.create(wish(request_id="r"))


async def test_a_caller_who_vanishes_leaves_nothing(house: House) -> None:
    """Half-made sandboxes are unmade when nobody waits for them any more."""
    house.engine.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(house.sessions.create(wish()))
        await until(lambda: house.engine.alive)
        caller.cancel()
    await until(lambda: house.engine.destroyed)
    await until(lambda: len(house.sessions) == 0)
    assert await house.store.load() == []


async def test_a_caller_who_vanishes_at_the_last_moment_leaves_nothing(
    house: House,
) -> None:
    """A session that was made for nobody ends at once, and its request id is free."""
    house.engine.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(house.sessions.create(wish(request_id="r")))
        await until(lambda: house.engine.alive)
        birth = next(iter(house.sessions.maker.under_way.values()))
        birth.outcome.add_done_callback(lambda _: caller.cancel())
        house.engine.gate.set()
    await until(lambda: house.engine.destroyed)
    await until(lambda: house.sessions._endings.under_way == 0)
    assert len(house.sessions) == 0
    again = await house.sessions.create(wish(request_id="r"))
    assert again.sandbox_id not in house.engine.destroyed


async def test_the_same_request_gives_the_same_session(house: House) -> None:
    """A caller who asks again after a broken line gets what it has already."""
    first = await house.sessions.create(wish(request_id="r"))
    assert await house.sessions.create(wish(request_id="r")) == first
    assert house.engine.begun == 1
    assert await house.sessions.create(wish(BOB, request_id="r")) != first


async def test_requests_at_the_same_time_share_one_making(house: House) -> None:
    """Also while it is being made; one of them hanging up does not harm the other."""
    house.engine.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        one = tasks.create_task(house.sessions.create(wish(request_id="r")))
        two = tasks.create_task(house.sessions.create(wish(request_id="r")))
        await until(lambda: house.engine.alive)
        one.cancel()
        house.engine.gate.set()
    assert house.engine.begun == 1
    assert (await two).state is State.READY
    assert house.engine.destroyed == []


async def test_a_request_id_means_one_kind_of_session(house: House) -> None:
    """Used again for something else, it is refused, not answered wrongly."""
    await house.sessions.create(wish(request_id="r"))
    with pytest.raises(RequestMismatchError):
        await house.sessions.create(wish(request_id="r", template="python"))
    with pytest.raises(RequestMismatchError):
        await house.sessions.create(wish(request_id="r", namespace="other"))


async def test_a_request_id_of_an_ended_session_says_so(
    house: House, clock: FakeClock
) -> None:
    """For a day; then it may make another."""
    made = await house.sessions.create(wish(request_id="r"))
    await house.sessions.delete(made.session_id)
    with pytest.raises(SessionExpiredError):
        await house.sessions.create(wish(request_id="r"))
    clock.jump(86400)
    assert await house.sessions.create(wish(request_id="r"))


async def test_no_more_sandboxes_than_allowed(tmp_path: Path, clock: FakeClock) -> None:
    """Those being made and those still going count; the answer says when to come."""
    async with House.open(tmp_path, clock, capacity=Capacity(2)) as house:
        made = await house.sessions.create(wish(idle_timeout=7 * SECOND))
        house.engine.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            second = tasks.create_task(house.sessions.create(wish()))
            await until(lambda: len(house.engine.alive) == 2)
            with pytest.raises(PoolExhaustedError) as caught:
                await house.sessions.create(wish())
            assert caught.value.retry_after == 7
            house.engine.gate.set()
        await second
        await house.sessions.delete(made.session_id)
        await house.sessions.create(wish())


async def test_bad_wishes_are_refused_before_anything_is_made(house: House) -> None:
    """Each names the field at fault."""
    bad = {
        "namespace": wish(namespace="No"),
        "template": wish(template="../x"),
        "request_id": wish(request_id="a\n"),
        "lifetime": wish(lifetime=SHORT.maximum_lifetime + SECOND),
        "idle_timeout": wish(idle_timeout=-SECOND),
        "environment": wish(environment={"A=B": "x"}),
        "owner": wish(ANN.__class__("", "")),
    }
    for field, one in bad.items():
        with pytest.raises((InvalidRequestError, TemplateNotFoundError)) as caught:
            await house.sessions.create(one)
        assert caught.value.metadata in ({"field": field}, {"template": "../x"})
    for environment in ({"": "x"}, {"A": "\0"}, {"A": "x" * (1 << 20)}):
        with pytest.raises(InvalidRequestError):
            await house.sessions.create(wish(environment=environment))
    with pytest.raises(InvalidRequestError):
        await house.sessions.create(wish(request_id="x" * 129))
    with pytest.raises(TemplateNotFoundError):
        await house.sessions.create(wish(template="unknown"))
    assert house.engine.begun == 0


async def test_a_session_ends_at_its_time_to_the_second(
    house: House, clock: FakeClock
) -> None:
    """Not before, and at once; the tombstone says why and whose it was."""
    made = await house.sessions.create(wish(lifetime=90 * SECOND))
    async with aclosing(house.sessions.feed.watch()) as events:
        await anext(events)
        await clock.advance(89.9)
        await sleeper(clock, 0.1)
        assert (await house.sessions.find(made.session_id)).state is State.READY
        await clock.advance(0.1)
        told = await next_of(events, Changed)
    assert isinstance(told, Changed)
    assert told.session.state is State.ENDED
    expired = await over(house, made)
    assert expired.metadata["ended_by"] == "expired"
    assert expired.metadata["owner_subject"] == ANN.subject


async def test_an_idle_session_is_asked_about_then_ends(
    house: House, clock: FakeClock
) -> None:
    """Routers have two seconds to object; nobody did."""
    made = await house.sessions.create(wish())
    async with aclosing(house.sessions.feed.watch()) as events:
        await anext(events)
        await clock.advance(SHORT.idle_timeout.total_seconds())
        asked = await next_of(events, ActivityQuery)
    assert isinstance(asked, ActivityQuery)
    assert asked.session_id == made.session_id
    await sleeper(clock, 2)
    await clock.advance(1.9)
    await sleeper(clock, 0.1)
    assert (await house.sessions.find(made.session_id)).state is State.READY
    await clock.advance(0.1)
    assert (await over(house, made)).metadata["ended_by"] == "idle"


async def test_a_running_stream_is_activity(house: House, clock: FakeClock) -> None:
    """A Router that has a call open answers the question, and the session goes on."""
    made = await house.sessions.create(wish(idle_timeout=4 * MINUTE))
    await clock.advance(240)
    await sleeper(clock, 2)
    touched = clock.now()
    await house.sessions.touch([Touch(made.session_id, made.created_at, 1)])
    await clock.advance(2)
    await until(lambda: not house.sessions._deadlines._checks)
    found = await house.sessions.find(made.session_id)
    assert (found.state, found.last_activity) == (State.READY, touched)
    await clock.advance(237)
    await sleeper(clock, 1)
    assert not house.sessions._deadlines._checks
    await clock.advance(1)
    await sleeper(clock, 2)
    await clock.advance(2)
    assert (await over(house, made)).metadata["ended_by"] == "idle"


async def test_the_sandbox_itself_is_asked_too(house: House, clock: FakeClock) -> None:
    """With no Router to answer, PicoD's own word saves a session in use."""
    made = await house.sessions.create(wish())
    house.engine.says = Activity(1, made.created_at)
    await clock.advance(SHORT.idle_timeout.total_seconds())
    await sleeper(clock, 2)
    await clock.advance(2)
    await until(lambda: not house.sessions._deadlines._checks)
    found = await house.sessions.find(made.session_id)
    assert found.last_activity == clock.now()


async def test_a_session_may_reach_its_time_while_it_is_asked_about(
    house: House, clock: FakeClock
) -> None:
    """Two seconds of asking must not lend it two seconds of life."""
    idle = SHORT.idle_timeout
    made = await house.sessions.create(wish(lifetime=idle + SECOND))
    await clock.advance(idle.total_seconds())
    await sleeper(clock, 2)
    await sleeper(clock, 1)
    await clock.advance(1)
    assert (await over(house, made)).metadata["ended_by"] == "expired"


async def test_touches_put_the_idle_end_off(house: House, clock: FakeClock) -> None:
    """Only news count, and nobody can touch the future."""
    made = await house.sessions.create(wish())
    await clock.advance(60)
    seen = clock.now()
    await house.sessions.touch(
        [
            Touch(made.session_id, seen, 0),
            Touch(made.session_id, seen - MINUTE, 0),
            Touch("ses-unknown", seen, 3),
        ]
    )
    assert (await house.sessions.find(made.session_id)).last_activity == seen
    stored = await house.store.find(made.session_id)
    assert stored is not None
    assert stored.last_activity == seen
    await house.sessions.touch([Touch(made.session_id, seen + 60 * MINUTE, 0)])
    assert (await house.sessions.find(made.session_id)).last_activity == seen


async def test_extending_moves_the_end_up_to_the_most(
    house: House, clock: FakeClock
) -> None:
    """From now on, never past the template's maximum; told and kept."""
    made = await house.sessions.create(wish(idle_timeout=15 * MINUTE))
    await clock.advance(60)
    async with aclosing(house.sessions.feed.watch()) as events:
        await anext(events)
        longer = await house.sessions.extend(made.session_id, 12 * MINUTE)
        assert longer.expires_at == clock.now() + 12 * MINUTE
        told = await next_of(events, Changed)
        assert isinstance(told, Changed)
        assert told.session == longer
    capped = await house.sessions.extend(made.session_id, 60 * MINUTE)
    assert capped.expires_at == made.created_at + SHORT.maximum_lifetime
    assert await house.store.find(made.session_id) == capped
    await house.sessions.touch([Touch(made.session_id, clock.now(), 1)])
    await clock.advance(10 * 60)
    await sleeper(clock, 30)
    assert (await house.sessions.find(made.session_id)).state is State.READY
    for bad in (timedelta(0), -MINUTE):
        with pytest.raises(InvalidRequestError):
            await house.sessions.extend(made.session_id, bad)


async def test_deleting_waits_for_the_end(house: House) -> None:
    """The answer comes when processes and files are gone, for all who asked."""
    made = await house.sessions.create(wish())
    await asyncio.gather(
        house.sessions.delete(made.session_id), house.sessions.delete(made.session_id)
    )
    assert house.engine.alive == {}
    assert house.engine.destroyed == [made.sandbox_id]
    with pytest.raises(SessionExpiredError) as caught:
        await house.sessions.delete(made.session_id)
    assert caught.value.metadata["ended_by"] == "deleted"
    assert await house.store.load() == []


async def test_a_session_being_made_can_be_deleted(house: House) -> None:
    """Its maker is told, and nothing is left."""
    house.engine.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(outcome(house.sessions.create(wish())))
        await until(lambda: house.engine.alive)
        page = house.sessions.page(owner=ANN)
        await house.sessions.delete(page.sessions[0].session_id)
    assert isinstance(caller.result(), SandboxStartError)
    assert house.engine.alive == {}


async def test_a_destruction_that_fails_is_tried_again(
    house: House, clock: FakeClock
) -> None:
    """No sandbox is left over because something went wrong once."""
    made = await house.sessions.create(wish())
    house.engine.stubborn = 2
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(house.sessions.delete(made.session_id))
        for left in (1, 0):
            await sleeper(clock, 1 - left / 2)
            assert house.engine.stubborn == left
            await clock.advance(1)
    assert house.engine.destroyed == [made.sandbox_id]


async def test_a_sandbox_that_dies_ends_its_session(house: House) -> None:
    """At once, told to those who watch, with the fault in the tombstone."""
    made = await house.sessions.create(wish())
    async with aclosing(house.sessions.feed.watch()) as events:
        await anext(events)
        house.engine.died(made.sandbox_id, "RUNNER_FAULT")
        told = await next_of(events, Changed)
    assert isinstance(told, Changed)
    assert (told.session.state, told.session.last_fault) == (
        State.ENDED,
        "RUNNER_FAULT",
    )
    expired = await over(house, made)
    assert expired.metadata["ended_by"] == "fault"
    assert expired.metadata["last_fault"] == "RUNNER_FAULT"
    house.engine.died(made.sandbox_id, "RUNNER_FAULT")  # once more does no harm


async def test_a_sandbox_that_dies_while_it_is_made_fails_its_maker(
    house: House,
) -> None:
    """Nobody waits for a corpse."""
    house.engine.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(outcome(house.sessions.create(wish())))
        await until(lambda: house.engine.alive)
        house.engine.died(next(iter(house.engine.alive)), "RUNNER_FAULT")
    assert isinstance(caller.result(), SandboxStartError)
    assert len(house.sessions) == 0


async def test_lists_are_in_pages_by_owner_and_namespace(
    house: House, clock: FakeClock
) -> None:
    """Oldest first; what is made meanwhile neither hides nor repeats anything."""
    made = []
    for number in range(5):
        clock.jump(1)
        namespace = "odd" if number % 2 else "even"
        made.append(await house.sessions.create(wish(namespace=namespace)))
    theirs = await house.sessions.create(wish(BOB))
    first = house.sessions.page(owner=ANN, size=2)
    assert first.sessions == made[:2]
    await house.sessions.delete(made[1].session_id)
    second = house.sessions.page(owner=ANN, size=2, token=first.next)
    assert second.sessions == made[2:4]
    last = house.sessions.page(owner=ANN, size=2, token=second.next)
    assert (last.sessions, last.next) == (made[4:], "")
    assert house.sessions.page(namespace="odd").sessions == [made[3]]
    assert theirs in house.sessions.page().sessions
    for token in ("x", "!", "AAAA", "MjAzMCB4"):
        with pytest.raises(InvalidRequestError):
            house.sessions.page(token=token)


async def test_what_never_was_is_not_found(house: House, clock: FakeClock) -> None:
    """Malformed ids, unknown ones, and those that ended more than a day ago."""
    made = await house.sessions.create(wish())
    await house.sessions.delete(made.session_id)
    for unknown in ("", "x", made.session_id[:-1] + "b", "' OR 1=1"):
        with pytest.raises(SessionNotFoundError):
            await house.sessions.find(unknown)
    clock.jump(86400)
    with pytest.raises(SessionNotFoundError):
        await house.sessions.find(made.session_id)
    await clock.advance(0)
    await until(lambda: house.engine.forgotten == [made.sandbox_id])


async def test_the_next_process_goes_on(tmp_path: Path, clock: FakeClock) -> None:
    """Sessions, deadlines and request ids outlive their WorkloadManager."""
    async with House.open(tmp_path, clock) as house:
        made = await house.sessions.create(wish(request_id="r", lifetime=MINUTE))
    assert house.engine.destroyed == []
    engine = FakeEngine()
    engine.adoptable = {made.sandbox_id}
    async with House.open(tmp_path, clock, engine=engine) as house:
        assert engine.swept == {made.sandbox_id}
        assert await house.sessions.find(made.session_id) == made
        assert await house.sessions.create(wish(request_id="r")) == made
        await clock.advance(60)
        assert (await over(house, made)).metadata["ended_by"] == "expired"


async def test_what_died_meanwhile_is_ended(tmp_path: Path, clock: FakeClock) -> None:
    """Its owner learns that it was a fault, and its remains are removed."""
    async with House.open(tmp_path, clock) as house:
        dead = await house.sessions.create(wish())
        late = await house.sessions.create(wish(lifetime=MINUTE))
    clock.jump(61)
    engine = FakeEngine()
    engine.adoptable = {late.sandbox_id}
    async with House.open(tmp_path, clock, engine=engine) as house:
        expired = await over(house, dead)
        assert expired.metadata["ended_by"] == "fault"
        assert expired.metadata["last_fault"] == "SANDBOX_UNREACHABLE"
        assert (await over(house, late)).metadata["ended_by"] == "expired"


async def test_a_half_made_session_is_undone_by_the_next_process(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Kill -9 in the middle of a making leaves a placeholder, and it is found."""
    async with House.open(tmp_path, clock) as house:
        made = await house.sessions.create(wish())
        await house.sessions.delete(made.session_id)
        going = await house.sessions.create(wish())
        house.engine.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            caller = tasks.create_task(house.sessions.create(wish(request_id="r")))
            await until(lambda: len(house.engine.alive) == 2)
            page = house.sessions.page()
            half = next(s for s in page.sessions if s.state is State.STARTING)
            async with House.open(tmp_path, clock) as other:  # as after a kill
                await until(lambda: half.sandbox_id in other.engine.destroyed)
                assert going.sandbox_id in other.engine.destroyed
                assert made.sandbox_id not in other.engine.destroyed
                assert await other.store.load() == []
            caller.cancel()


async def test_a_service_going_down_undoes_what_it_was_making(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Ready sandboxes live on; half-made ones do not; nothing new is begun."""
    async with asyncio.TaskGroup() as tasks:
        async with House.open(tmp_path, clock) as house:
            ready = await house.sessions.create(wish())
            house.engine.gate.clear()
            caller = tasks.create_task(outcome(house.sessions.create(wish())))
            await until(lambda: len(house.engine.alive) == 2)
        assert isinstance(await caller, SandboxStartError)
        with pytest.raises(ClosingError):
            await house.sessions.create(wish())
    assert list(house.engine.alive) == [ready.sandbox_id]


async def test_all_can_be_ended_at_once(house: House) -> None:
    """`cubemesh up` leaves no sandbox behind."""
    made = [await house.sessions.create(wish()) for _ in range(3)]
    await house.sessions.delete_all("shutdown")
    assert sorted(house.engine.destroyed) == sorted(s.sandbox_id for s in made)
    assert (await over(house, made[0])).metadata["ended_by"] == "shutdown"
    assert house.sessions.ended == {"shutdown": 3}
