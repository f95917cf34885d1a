"""The pool by itself: what is given to whom, and which entries there are to be."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from authority import Issued
from authority._slots import Slot, Slots
from tlsloader import SpiffeID


@pytest.fixture
def slots() -> Slots:
    numbers = itertools.count()
    return Slots(lambda: SpiffeID("a.test", f"/sandbox/{next(numbers)}"), spare=3)


def made(slot: Slot, slots: Slots) -> str:
    number = f"entry of {slot.identity.path}"
    slots.entered(slot, number)
    return number


def given(slot: Slot) -> None:
    slot.issued = Issued(slot.identity, b"", b"", datetime(2030, 1, 1, tzinfo=UTC), "")


def test_is_as_large_as_it_was_told(slots: Slots) -> None:
    """So many are wanted that nobody has; each taken one makes room for another."""
    assert len(slots.wanted(100)) == 3
    assert len(slots.wanted(100)) == 3
    slots.reserve()
    assert len(slots.wanted(100)) == 4
    assert len(slots.wanted(2)) == 2


def test_gives_the_one_that_is_nearest(slots: Slots) -> None:
    """Ready before entered before wanted; and there always is another."""
    plain, entered, ready = slots.wanted(3)
    made(entered, slots)
    made(ready, slots)
    given(ready)
    assert slots.ready == 1
    assert [slots.reserve() for _ in range(3)] == [ready, entered, plain]
    assert slots.ready == 0
    fourth = slots.reserve()
    assert fourth.taken
    assert fourth not in (plain, entered, ready)
    assert slots.find(fourth.identity) is fourth


def test_enters_those_first_that_somebody_waits_for(slots: Slots) -> None:
    """Who got one that was not made ahead waits for as short as can be."""
    slots.wanted(3)
    taken = [slots.reserve() for _ in range(4)]
    assert slots.wanted(4) == taken
    made(taken[0], slots)
    assert taken[0] not in slots.wanted(100)


def test_what_is_dropped_is_deleted_and_never_comes_back(slots: Slots) -> None:
    """Also an entry that was being made while its sandbox ended."""
    early, late = slots.reserve(), slots.reserve()
    number = made(early, slots)
    slots.drop(early.identity)
    slots.drop(late.identity)
    assert not slots.entered(late, "made too late")
    assert slots.doomed(10) == [number, "made too late"]
    assert slots.doomed(1) == [number]
    slots.deleted([number])
    assert slots.doomed(10) == ["made too late"]
    assert slots.find(early.identity) is None
    slots.drop(early.identity)  # unknown ones are fine


def test_a_claimed_one_is_nobodys_spare(slots: Slots) -> None:
    """An earlier process gave it: it is somebody's, and needs its entry found."""
    identity = SpiffeID("a.test", "/sandbox/adopted")
    slot = slots.claim(identity)
    assert slot.taken
    assert slots.claim(identity) is slot
    assert slots.wanted(1) == [slot]
    assert slots.reserve() is not slot


def test_what_is_nobodys_at_the_server_is_deleted(slots: Slots) -> None:
    """Entries that were found, unless a slot has their identity."""
    known = slots.claim(SpiffeID("a.test", "/sandbox/adopted"))
    slots.found("one", known.identity)
    slots.found("two", SpiffeID("a.test", "/sandbox/left"))
    slots.found("three", None)
    assert slots.doomed(10) == ["two", "three"]
