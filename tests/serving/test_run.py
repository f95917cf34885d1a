"""Every end of a service has its exit status and, if it is known, plain words."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import pytest

from auth import KeysError
from serving import FatalError, ListenError, SettingsError, run
from tlsloader import MaterialError

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def fine() -> None:
    await asyncio.get_running_loop().run_in_executor(None, int)


async def failing(error: BaseException) -> None:
    raise error


def ended(main: Coroutine[None, None, None]) -> tuple[int, list[str]]:
    """Return the exit status of *main*, and what it printed."""
    stream = io.StringIO()
    return run(main, stream), stream.getvalue().splitlines()


def test_a_clean_end_is_0() -> None:
    """A service that stopped as told says nothing."""
    assert ended(fine()) == (0, [])


def test_runs_on_uvloop_where_there_is_one() -> None:
    """The faster loop is taken without being asked for."""
    uvloop = pytest.importorskip("uvloop")
    kinds = []

    async def look() -> None:
        kinds.append(type(asyncio.get_running_loop()))

    assert ended(look()) == (0, [])
    assert kinds == [uvloop.Loop]


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (
            FatalError("the state folder is of version 9", "update", status=78),
            78,
            ["error: the state folder is of version 9", "hint: update"],
        ),
        (
            ListenError("host:1", OSError(98, "x")),
            69,
            [
                "error: cannot listen on host:1: address already in use",
                "hint: another process listens there: stop it or take port 0",
            ],
        ),
        (
            MaterialError("key_mismatch", "key.pem does not fit svid.pem"),
            78,
            [
                "error: key.pem does not fit svid.pem",
                "hint: is whoever issues certificates writing these files?",
            ],
        ),
        (
            KeysError("jwt.json: not a JWKS"),
            78,
            [
                "error: jwt.json: not a JWKS",
                "hint: the Routers write and read these files; do the paths agree?",
            ],
        ),
        (
            SettingsError([("one", "do"), ("two", "")]),
            78,
            ["error: one", "hint: do", "error: two"],
        ),
    ],
)
def test_known_faults_are_told_in_words(
    error: Exception, status: int, lines: list[str]
) -> None:
    """No traceback for what an operator can mend."""
    assert ended(failing(error)) == (status, lines)


def test_the_unforeseen_is_70_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A bug leaves its traceback in the log and a sentence for people."""
    status, lines = ended(failing(RuntimeError("boom")))
    assert status == 70
    assert lines[0] == "error: the service failed unexpectedly"
    assert "boom" in caplog.text


def test_every_failure_of_a_group_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Two parts that failed are two errors, and the first one gives the status."""
    group = ExceptionGroup("x", [FatalError("a"), ExceptionGroup("y", [OSError("b")])])
    status, lines = ended(failing(group))
    assert (status, lines[0]) == (78, "error: a")
    assert "the service failed" in caplog.text


def test_being_cut_short_is_130() -> None:
    """A second signal ends the service as an interrupt does."""
    assert ended(failing(asyncio.CancelledError())) == (130, [])
