"""PicoDs forked from one parent, which may be killed at any moment."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from clock import SYSTEM
from tests.processes import logging_into
from tests.workloadmanager.engine import until
from tests.workloadmanager.local import Ground
from tests.workloadmanager.test_local import gone, opened, order, processes
from workloadmanager._errors import SandboxStartError
from workloadmanager._forkserver import ForkServer
from workloadmanager._values import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture
def ground() -> Iterator[Ground]:
    ground = Ground()
    yield ground
    for process in logging_into(ground.folder):
        process.kill()
    ground.remove()


def parents() -> list[psutil.Process]:
    """Return the fork servers, which are children of this very process."""
    found = []
    for each in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            found += [each] if "picod.forkserver" in each.cmdline() else []
    return found


def remembered(process: psutil.Process, text: bytes) -> bool:
    """Say whether *text* stands anywhere in the memory of *process*."""
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            first, last = (int(each, 16) for each in span.split("-"))
            if "r" in rights and "[v" not in line:
                memory.seek(first)
                if text in memory.read(last - first):
                    return True
    return False


async def test_sandboxes_are_children_of_the_fork_server(ground: Ground) -> None:
    """They are forked: nothing is started afresh for them."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        picod = processes(made)[0]
        assert picod.ppid() == parents()[0].pid
        assert picod.name() == f"picod-{made.sandbox_id[4:13]}"
        assert await ground.run(made, "echo", "hi") == ("hi\n", 0)


async def test_the_fork_server_never_sees_a_key(ground: Ground) -> None:
    """A key is handed over when the fork is done, to the one whose it is."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        await sessions.create(order())
        keys = [each.key.splitlines()[1] for each in ground.issued]
        assert remembered(processes(made)[0], keys[0])
        assert not any(remembered(parents()[0], key) for key in keys)


async def test_a_killed_fork_server_is_replaced_at_once(ground: Ground) -> None:
    """Sandboxes live on, and the next one is made as ever."""
    async with opened(ground) as sessions:
        one = await sessions.create(order())
        dead = parents()[0]
        dead.kill()
        two = await sessions.create(order())
        assert processes(two)[0].ppid() == parents()[0].pid != dead.pid
        assert ground.forks.starts == 2
        for made in (one, two):
            assert await ground.run(made, "echo", "hi") == ("hi\n", 0)


async def test_an_order_that_nobody_carried_out_is_given_again(ground: Ground) -> None:
    """The fork server is killed with the order in its hands."""
    async with opened(ground) as sessions:
        await sessions.create(order())
        dead = parents()[0]
        dead.suspend()
        making = asyncio.ensure_future(sessions.create(order()))
        await until(lambda: len(ground.left()) == 2)
        dead.kill()
        made = await making
        assert await ground.run(made, "echo", "hi") == ("hi\n", 0)


async def test_without_a_fork_server_sandboxes_are_made_afresh(ground: Ground) -> None:
    """One that cannot even start costs time, and no sandbox."""
    engine = ground.engine()
    ground.forks._argv = ["/bin/false"]
    async with opened(ground, engine) as sessions:
        made = await sessions.create(order())
        assert processes(made)[0].ppid() == os.getpid()
        assert await ground.run(made, "echo", "hi") == ("hi\n", 0)
        family = processes(made)
        await sessions.delete(made.session_id)
        await gone(*family)
    assert ground.left() == []


async def test_killed_again_and_again_it_leaves_no_half_made_sandbox(
    ground: Ground,
) -> None:
    """At whatever stage: each creation succeeds, and all of it goes in the end."""
    chance = random.Random(7)  # noqa: S311
    async with opened(ground) as sessions:
        making = [asyncio.ensure_future(sessions.create(order())) for _ in range(8)]
        while not all(each.done() for each in making):
            await SYSTEM.sleep(chance.uniform(0.3, 1.2))
            for process in parents():
                process.kill()
        made = [await each for each in making]
        assert len({each.sandbox_id for each in made}) == 8
        assert len(logging_into(ground.plan.logs)) == 8
        for each in made:
            assert await ground.run(each, "echo", "hi") == ("hi\n", 0)
        await sessions.delete_all("test")
    assert ground.left() == []
    assert logging_into(ground.plan.logs) == []


async def test_whatever_is_killed_while_a_sandbox_is_made_nothing_is_left(
    ground: Ground,
) -> None:
    """PicoD, bwrap or the runner, at whatever stage: it is refused, or soon over."""
    chance = random.Random(9)  # noqa: S311
    fates = []
    async with opened(ground) as sessions:
        for _ in range(12):
            known = {*logging_into(ground.plan.logs)}
            making = asyncio.ensure_future(sessions.create(order()))
            while not (new := {*logging_into(ground.plan.logs)} - known):
                await SYSTEM.sleep(0)
            await SYSTEM.sleep(chance.uniform(0, 0.06))
            for picod in new:
                with suppress(psutil.Error):  # it has just ended
                    bwraps = picod.children()
                    runners = [each for bwrap in bwraps for each in bwrap.children()]
                    chance.choice([picod, *bwraps, *runners]).kill()
            (fate,) = await asyncio.gather(making, return_exceptions=True)
            fates.append(type(fate))
            await until(lambda: len(sessions) == 0)
    assert {*fates} <= {Session, SandboxStartError}
    assert SandboxStartError in fates
    assert ground.left() == []
    assert logging_into(ground.plan.logs) == []


async def test_it_ends_with_its_keeper() -> None:
    """And waits for nobody: it holds nothing that would be lost."""
    forks = ForkServer(sys.executable, {})
    async with forks.running():
        await until(lambda: forks.starts)
        process = parents()[0]
    assert not process.is_running()
