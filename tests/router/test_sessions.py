"""What the Router believes of sessions, whoever tells it and in whatever order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from router._sessions import Door, Session, Sessions
from tests.router.manager import ALICE

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def session(name: str = "a", *, minutes: int = 60, address: str = "unix:/x") -> Session:
    return Session(
        session_id=name,
        sandbox_id="sbx",
        namespace="default",
        template="python",
        owner=ALICE,
        door=Door(address, "spiffe://sandbox/x"),
        expires_at=NOW + timedelta(minutes=minutes),
    )


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def sessions(ended: list[str]) -> Sessions:
    made = Sessions()
    made.on_end(ended.append)
    made.begin_watch()
    return made


def test_a_snapshot_counts_when_it_is_complete(sessions: Sessions) -> None:
    """Half a snapshot ends no session, and makes none known."""
    sessions.snapshot([session("old")], complete=True)
    sessions.snapshot([session("new")], complete=False)
    assert sessions.find("old", NOW)
    assert sessions.find("new", NOW) is None
    sessions.snapshot([session("newer")], complete=True)
    assert sessions.find("old", NOW) is None
    assert sessions.find("new", NOW)
    assert sessions.find("newer", NOW)


def test_who_is_not_in_a_later_snapshot_has_ended(
    sessions: Sessions, ended: list[str]
) -> None:
    """A watch begun anew ends what ended while nobody watched."""
    sessions.snapshot([session("a"), session("b")], complete=True)
    sessions.begin_watch()
    sessions.snapshot([session("b")], complete=True)
    assert ended == ["a"]
    assert sessions.has_ended("a")


def test_half_a_snapshot_of_a_lost_watch_is_thrown_away(sessions: Sessions) -> None:
    """Parts of two watches are never taken for one snapshot."""
    sessions.snapshot([session("a")], complete=False)
    sessions.begin_watch()
    sessions.snapshot([session("b")], complete=True)
    assert sessions.find("a", NOW) is None


def test_a_session_learned_during_the_watch_outlives_its_snapshot(
    sessions: Sessions, ended: list[str]
) -> None:
    """Just made, it may be missing in a snapshot on its way: asked for, not ended."""
    sessions.learn(session("made"))
    sessions.snapshot([], complete=True)
    assert ended == []
    assert sessions.find("made", NOW) is None
    assert not sessions.has_ended("made")


def test_a_session_learned_and_confirmed_ends_with_a_later_snapshot(
    sessions: Sessions, ended: list[str]
) -> None:
    """Once the watch itself has told of it, a snapshot without it is its end."""
    sessions.learn(session("made"))
    sessions.changed(session("made"))
    sessions.snapshot([], complete=True)
    assert ended == ["made"]


def test_an_end_is_final(sessions: Sessions, ended: list[str]) -> None:
    """A late answer or change brings no session back, and listeners hear once."""
    sessions.learn(session())
    sessions.end("a")
    sessions.end("a")
    assert not sessions.learn(session())
    sessions.changed(session())
    assert sessions.find("a", NOW) is None
    assert ended == ["a"]


def test_a_session_past_its_end_is_not_used(sessions: Sessions) -> None:
    """Nobody has to say that time is up."""
    sessions.learn(session(minutes=1))
    assert sessions.find("a", NOW + timedelta(seconds=59))
    assert sessions.find("a", NOW + timedelta(seconds=60)) is None


def test_a_change_replaces_what_was_known(sessions: Sessions) -> None:
    """The watch's word is the newest."""
    sessions.learn(session(address="unix:/old"))
    sessions.changed(session(address="unix:/new"))
    found = sessions.find("a", NOW)
    assert found is not None
    assert found.door.address == "unix:/new"
    assert len(sessions) == 1
