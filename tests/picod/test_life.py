"""A sandbox that nobody ends, ends itself; time is moved by hand."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from picod._life import end_at_expiry, end_on_fault, end_when_orphaned
from picod._sandbox import Sandbox
from tests.fakes import FakeClock, running
from tests.picod.test_sandbox import SANDBOX, binding

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Mortal:
    """A runner that ends when told to."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.fault_reason = "RUNNER_FAULT"
        self._ended = asyncio.Event()

    def die(self, fault: str) -> None:
        self.fault = fault
        self._ended.set()

    async def wait_ended(self) -> None:
        await self._ended.wait()


async def _steps(clock: FakeClock, seconds: float, step: float) -> None:
    for _ in range(round(seconds / step)):
        await clock.advance(step)
        await asyncio.sleep(0)  # noqa: TID251  # one turn of the loop


async def _ends(sandbox: Sandbox, job: Coroutine[None, None, None]) -> str:
    async with asyncio.timeout(5):
        await job
        await sandbox.ended.wait()
    return sandbox.ended_by


async def test_ends_at_its_expiry() -> None:
    """The binding's end is kept to the second, without the WorkloadManager."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, clock=clock)
    job = asyncio.ensure_future(end_at_expiry(sandbox, clock=clock))
    sandbox.bind(binding(clock, expires_at=clock.now() + timedelta(seconds=61)))
    await _steps(clock, 60, 5)
    assert not sandbox.ended.is_set()
    await clock.advance(1)
    assert await _ends(sandbox, job) == "expired"  # type: ignore[arg-type]


async def test_unbound_sandboxes_do_not_expire() -> None:
    """A warm sandbox has no end of its own; the orphan's timeout is its end."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, clock=clock)
    async with running(end_at_expiry(sandbox, clock=clock)):
        clock.jump(1e6)
    assert not sandbox.ended.is_set()


async def test_ends_when_nobody_holds_its_control_door() -> None:
    """Without a connection for the timeout, the sandbox is an orphan."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, clock=clock)
    held = [1]
    job = asyncio.ensure_future(
        end_when_orphaned(sandbox, lambda: held[0], timeout=40, clock=clock)
    )
    await _steps(clock, 200, 10)
    held[0] = 0
    await _steps(clock, 30, 10)
    sandbox.control_seen()
    await _steps(clock, 30, 10)
    assert not sandbox.ended.is_set()
    await clock.advance(10)
    assert await _ends(sandbox, job) == "orphaned"  # type: ignore[arg-type]


async def test_a_fault_is_told_before_the_end() -> None:
    """The sandbox is unwell at once, and stays until somebody has read why."""
    clock = FakeClock()
    sandbox, runner = Sandbox(SANDBOX, clock=clock), Mortal()
    heard: list[str] = []
    job = asyncio.ensure_future(
        end_on_fault(sandbox, runner, unwell=heard.append, clock=clock)
    )
    runner.die("a malformed frame")
    await clock.advance(1)
    assert (sandbox.last_fault, sandbox.ended.is_set()) == ("RUNNER_FAULT", False)
    assert heard == ["runner fault"]
    sandbox.fault_told.set()
    assert await _ends(sandbox, job) == "runner fault"  # type: ignore[arg-type]


async def test_a_fault_nobody_asks_for_ends_the_sandbox() -> None:
    """Who never asks cannot keep a broken sandbox alive."""
    clock = FakeClock()
    sandbox, runner = Sandbox(SANDBOX, clock=clock), Mortal()
    job = asyncio.ensure_future(end_on_fault(sandbox, runner, linger=5, clock=clock))
    runner.die("killed")
    await clock.advance(5)
    assert await _ends(sandbox, job) == "runner fault"  # type: ignore[arg-type]


async def test_the_end_itself_is_no_fault() -> None:
    """A runner that goes because the sandbox ends leaves no fault behind."""
    sandbox, runner = Sandbox(SANDBOX), Mortal()
    sandbox.end("shutdown")
    runner.die("closed")
    await end_on_fault(sandbox, runner)
    assert (sandbox.last_fault, sandbox.ended_by) == ("", "shutdown")
