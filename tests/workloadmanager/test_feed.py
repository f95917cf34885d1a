from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from tests.fakes import FakeClock, running
from tests.workloadmanager.test_store import session
from workloadmanager._engine import Sandbox
from workloadmanager._feed import (
    ActivityQuery,
    Changed,
    Event,
    Feed,
    Heartbeat,
    Snapshot,
    Waiting,
)
from workloadmanager._values import Isolation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from workloadmanager._values import Session


async def take(events: AsyncGenerator[Event, None], number: int) -> list[Event]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(number)]


async def test_a_new_watcher_gets_a_snapshot_then_changes(clock: FakeClock) -> None:
    """Nothing is missed between the two, and every change has the next number."""
    live = [session()]
    feed = Feed(lambda: live, clock=clock)
    async with aclosing(feed.watch()) as events:
        start = feed.revision
        assert await take(events, 1) == [Snapshot(start, live, complete=True)]
        one, two = session(), session()
        feed.publish(one)
        feed.publish(two)
        assert await take(events, 2) == [
            Changed(start + 1, one),
            Changed(start + 2, two),
        ]


async def test_an_empty_snapshot_is_said_to_be_complete(clock: FakeClock) -> None:
    """A Router must know that it has seen all, even when that is nothing."""
    feed = Feed(list, clock=clock)
    async with aclosing(feed.watch()) as events:
        assert await take(events, 1) == [Snapshot(feed.revision, [], complete=True)]


async def test_a_long_snapshot_comes_in_parts(clock: FakeClock) -> None:
    """Messages stay below gRPC's limit; only the last part is complete."""
    live = [session() for _ in range(1001)]
    feed = Feed(lambda: live, clock=clock)
    async with aclosing(feed.watch()) as events:
        parts = await take(events, 3)
    assert [len(part.sessions) for part in parts if isinstance(part, Snapshot)] == [
        500,
        500,
        1,
    ]
    assert [part.complete for part in parts if isinstance(part, Snapshot)] == [
        False,
        False,
        True,
    ]


async def test_changes_during_a_snapshot_come_after_it(clock: FakeClock) -> None:
    """What happens while a slow Router reads its snapshot is not lost."""
    live = [session() for _ in range(600)]
    feed = Feed(lambda: list(live), clock=clock)
    late = session()
    async with aclosing(feed.watch()) as events:
        await take(events, 1)
        feed.publish(late)
        rest = await take(events, 2)
    assert isinstance(rest[0], Snapshot)
    assert rest[1] == Changed(feed.revision, late)


async def test_a_watcher_resumes_where_it_was(clock: FakeClock) -> None:
    """A short break costs no snapshot; the first word says that it worked."""
    feed = Feed(list, clock=clock)
    seen, missed = session(), session()
    feed.publish(seen)
    last = feed.revision
    feed.publish(missed)
    async with aclosing(feed.watch(last)) as events:
        assert await take(events, 2) == [Heartbeat(last), Changed(last + 1, missed)]


async def test_who_missed_too_much_starts_afresh(clock: FakeClock) -> None:
    """Behind the history, ahead of us, or from another life: a snapshot."""
    feed = Feed(list, clock=clock, history=3)
    first = feed.revision
    for _ in range(5):
        feed.publish(session())
    for stale in (first, first + 1, feed.revision + 1, 1):
        async with aclosing(feed.watch(stale)) as events:
            assert isinstance((await take(events, 1))[0], Snapshot), stale
    async with aclosing(feed.watch(first + 2)) as events:
        assert isinstance((await take(events, 1))[0], Heartbeat)


async def test_a_slow_watcher_is_resynced(clock: FakeClock) -> None:
    """One Router that does not read costs neither memory nor a wrong picture."""
    live: list[Session] = []
    feed = Feed(lambda: list(live), clock=clock, history=4)
    async with aclosing(feed.watch()) as events:
        await take(events, 1)
        for _ in range(10):
            live.append(session())
            feed.publish(live[-1])
        assert await take(events, 1) == [Snapshot(feed.revision, live, complete=True)]
    assert len(feed._history) == 4


async def test_heartbeats_and_questions_reach_all_watchers(clock: FakeClock) -> None:
    """Every five seconds a sign of life; a question is no change."""
    feed = Feed(list, clock=clock)
    async with aclosing(feed.watch()) as one, aclosing(feed.watch()) as two:
        for events in (one, two):
            await take(events, 1)
        assert feed.watchers == 2
        feed.ask("ses-x")
        async with running(feed.beat()):
            await clock.advance(5)
            for events in (one, two):
                assert await take(events, 2) == [
                    ActivityQuery(feed.revision, "ses-x"),
                    Heartbeat(feed.revision),
                ]
    assert feed.watchers == 0


async def test_closing_ends_all_watching(clock: FakeClock) -> None:
    """A service that stops does not wait for Routers that never hang up."""
    feed = Feed(list, clock=clock)
    async with aclosing(feed.watch()) as events:
        await take(events, 1)
        feed.close()
        assert [event async for event in events] == []


async def test_revisions_of_an_earlier_life_are_not_ours(clock: FakeClock) -> None:
    """A Router that outlived us cannot resume into another process's numbers."""
    before = Feed(list, clock=clock)
    for _ in range(100):
        before.publish(session())
    clock.jump(1)
    after = Feed(list, clock=clock)
    async with aclosing(after.watch(before.revision)) as events:
        assert isinstance((await take(events, 1))[0], Snapshot)


async def test_only_the_last_word_about_who_waits_counts(clock: FakeClock) -> None:
    """It is told at the start, also to one that resumes, and is no numbered change."""
    feed = Feed(list, clock=clock)
    feed.tell_waiting([sandbox("a")])
    for resume in (0, feed.revision):
        async with aclosing(feed.watch(resume)) as events:
            _, told = await take(events, 2)
            assert told == Waiting(feed.revision, [sandbox("a")])
            for names in ("a", "ab", "b"):
                feed.tell_waiting([sandbox(name) for name in names])
            assert await take(events, 1) == [Waiting(feed.revision, [sandbox("b")])]
            feed.tell_waiting([])
            assert await take(events, 1) == [Waiting(feed.revision, [])]
        feed.tell_waiting([sandbox("a")])


def sandbox(name: str) -> Sandbox:
    return Sandbox(
        sandbox_id=name,
        address=f"unix:/{name}",
        spiffe_id=f"spiffe://x/{name}",
        isolation=Isolation("none", 0, own_uid=False),
        record="",
    )
