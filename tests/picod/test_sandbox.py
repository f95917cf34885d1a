"""The state of one sandbox, without gRPC."""

from __future__ import annotations

from datetime import timedelta

import pytest

from auth import Principal
from picod._errors import (
    AlreadyBoundError,
    InvalidRequestError,
    NotBoundError,
    RunnerFaultError,
    ShuttingDownError,
)
from picod._sandbox import Binding, Sandbox
from tests.fakes import FakeClock

SANDBOX = "sbx-" + "a" * 26
SESSION = "ses-" + "b" * 26
OWNER = Principal("spiffe://cluster.local", "spiffe://cluster.local/user/ada", "ada")


def binding(clock: FakeClock, **changes: object) -> Binding:
    told: dict[str, object] = {
        "session_id": SESSION,
        "owner": OWNER,
        "environment": {"A": "1"},
        "expires_at": clock.now() + timedelta(hours=1),
    }
    return Binding(**(told | changes))  # type: ignore[arg-type]


def test_is_bound_once() -> None:
    """A second session is refused, even the same one, and the first one stays."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, clock=clock)
    sandbox.bind(binding(clock))
    for again in (SESSION, "ses-" + "c" * 26):
        with pytest.raises(AlreadyBoundError):
            sandbox.bind(binding(clock, session_id=again))
    assert sandbox.session_id == SESSION


def test_serves_nobody_before_it_is_bound() -> None:
    """A warm sandbox has no owner yet, so nobody may use it."""
    sandbox = Sandbox(SANDBOX, clock=FakeClock())
    with pytest.raises(NotBoundError), sandbox.call():
        pytest.fail("served")
    assert sandbox.session_id == ""
    assert sandbox.open_calls == 0


def test_takes_no_session_before_there_is_a_runner() -> None:
    """Its doors are open by then; whoever comes early is refused."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, starting=True, clock=clock)
    with pytest.raises(RunnerFaultError):
        sandbox.bind(binding(clock))
    with pytest.raises(RunnerFaultError), sandbox.call():
        pytest.fail("served")
    assert not sandbox.ready
    sandbox.started()
    sandbox.bind(binding(clock))
    assert sandbox.ready


@pytest.mark.parametrize(
    "changes",
    [
        {"session_id": ""},
        {"session_id": "ses-" + "B" * 26},
        {"session_id": SESSION + "\n"},
        {"environment": {"": "x"}},
        {"environment": {"A=B": "x"}},
        {"environment": {"A": "x\0"}},
    ],
)
def test_refuses_a_malformed_session(changes: dict[str, object]) -> None:
    """What could not be a session is refused before anything is kept."""
    with pytest.raises(InvalidRequestError):
        binding(FakeClock(), **changes)


def test_never_shows_the_environment() -> None:
    """Values of the environment may be secrets and are in no text."""
    assert "hidden" not in repr(binding(FakeClock(), environment={"KEY": "hidden"}))


def test_counts_calls_and_their_time() -> None:
    """Both ends of a call are activity, and open calls are counted."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, clock=clock)
    sandbox.bind(binding(clock))
    clock.jump(10)
    begun = clock.now()
    with sandbox.call() as bound:
        assert bound.environment == {"A": "1"}
        assert (sandbox.open_calls, sandbox.last_activity) == (1, begun)
        clock.jump(10)
    assert (sandbox.open_calls, sandbox.last_activity) == (0, clock.now())


def test_a_fault_is_for_good() -> None:
    """A broken sandbox is not ready, serves nobody and keeps its first fault."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, clock=clock)
    sandbox.bind(binding(clock))
    sandbox.fail("RUNNER_FAULT")
    sandbox.fail("OTHER")
    assert (sandbox.ready, sandbox.last_fault) == (False, "RUNNER_FAULT")
    with pytest.raises(RunnerFaultError), sandbox.call():
        pytest.fail("served")


def test_calls_cut_by_the_end_say_so() -> None:
    """Whoever loses the runner because the sandbox ends reads that, not a fault."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, clock=clock)
    sandbox.bind(binding(clock))

    def cut_off() -> None:
        with sandbox.call():
            sandbox.end("shutdown")
            sandbox.end("expired")
            raise RunnerFaultError

    with pytest.raises(ShuttingDownError):
        cut_off()
    with pytest.raises(ShuttingDownError), sandbox.call():
        pytest.fail("served")
    assert sandbox.ended_by == "shutdown"
