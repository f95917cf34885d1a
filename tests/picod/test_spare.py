"""The interpreter that is forked ahead: what it is when a context takes it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from picod._code import Code, NewContext
from picod._runner import Limits
from tests.picod.cells import cell
from tests.picod.sandboxes import run, sandbox, singly

if TYPE_CHECKING:
    from picod._runner import Runner

PID = "import os; os.getpid()"
MIB = 1024 * 1024


def interpreters(runner: Runner) -> list[psutil.Process]:
    """Name the interpreters: beneath keepers, and each leads a session of its own."""
    inside = psutil.Process(runner.pid).children()[0]
    return [each for each in inside.children(recursive=True) if leads(each.pid)]


def leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:  # what forks a keeper ends at once
        return False


def inner(process: psutil.Process) -> str:
    """Tell which number a process has in its sandbox."""
    status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    line = next(each for each in status.splitlines() if each.startswith("NSpid:"))
    return line.split()[-1]


async def spare(runner: Runner, known: int = 0) -> psutil.Process:
    """Wait for the spare beside *known* interpreters."""
    async with asyncio.timeout(30):
        while len(found := interpreters(runner)) <= known:
            await asyncio.to_thread(found.__len__)
    return max(found, key=lambda each: int(inner(each)))


@pytest.mark.slow
async def test_the_first_call_takes_it(runner: Runner) -> None:
    """The first call forks nothing; afterwards there is a next one, and only one."""
    first = await spare(runner)
    assert (await cell(runner, PID)).text == inner(first)
    second = await spare(runner, known=1)
    made = await runner.code.create(NewContext("python"))
    assert (await cell(runner, PID, context=made.name)).text == inner(second)
    await spare(runner, known=2)
    await run(runner, "sleep", "1")
    assert len(interpreters(runner)) == 3


async def test_it_is_told_what_it_could_not_know(runner: Runner) -> None:
    """It has the environment of its context, and of nobody else."""
    first = await spare(runner)
    long = "x" * 100_000
    code = "import os, sys; os.getpid(), os.environ['A'] + os.environ['B'], sys.path[1]"
    environment = {"A": "b", "B": long, "PYTHONPATH": "/mine"}
    made = await runner.code.create(NewContext("python", b"", environment))
    ran = await cell(runner, code, context=made.name)
    assert ran.text == f"({inner(first)}, 'b{long}', '/mine')"
    second = await spare(runner, known=1)
    ran = await cell(runner, "import os; os.getpid(), 'A' in os.environ")
    assert ran.text == f"({inner(second)}, False)"
    assert (await cell(runner, "os.getcwd()")).text == "'/workspace'"


async def test_a_folder_of_its_own(runner: Runner) -> None:
    """A context that begins elsewhere gets an interpreter of its own."""
    first = await spare(runner)
    made = await runner.code.create(NewContext("python", b"/tmp"))
    ran = await cell(runner, f"{PID}, os.getcwd()", context=made.name)
    assert ran.text
    assert ran.text != f"({inner(first)}, '/tmp')"
    assert ran.text.endswith(", '/tmp')")
    assert (await cell(runner, PID)).text == inner(first)


async def test_it_draws_its_own_random_numbers() -> None:
    """Whatever was forked ahead repeats the numbers of nobody."""
    drawn = set()
    async with sandbox(imports=("random", "uuid")) as runner:
        for known in range(3):
            await spare(runner, known)
            made = await runner.code.create(NewContext("python"))
            code = "import random, uuid; random.random(), uuid.uuid4()"
            ran = await cell(runner, code, context=made.name)
            drawn.add(ran.text)
        folder = await runner.code.create(NewContext("python", b"/tmp"))
        drawn.add((await cell(runner, code, context=folder.name)).text)
    assert len(drawn) == 4


async def test_nothing_is_left_of_it(runner: Runner) -> None:
    """No descriptor and no process stays behind those that were taken."""
    await spare(runner)
    inside = psutil.Process(runner.pid).children()[0]
    before = inside.num_fds()
    for _ in range(3):
        made = await runner.code.create(NewContext("python"))
        await runner.code.delete(made.name)
        await spare(runner)
    assert inside.num_fds() == before
    assert len(interpreters(runner)) == 1


@pytest.mark.parametrize("which", ["interpreter", "keeper"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_that_was_killed_or_stopped(
    runner: Runner, sent: signal.Signals, which: str
) -> None:
    """Whatever the code did to it, the next call runs and forgets nothing."""
    first = await spare(runner)
    keeper = first.parent()
    assert keeper
    (first if which == "interpreter" else keeper).send_signal(sent)
    ran = await cell(runner, "1 + 1", timeout=20)
    assert (ran.text, ran.started.notice) == ("2", "")
    assert runner.fault is None


async def test_it_is_as_limited_as_any(runner: Runner) -> None:
    """Limits, group, session and secrecy are those of an interpreter forked late."""
    code = """
import os, resource
limits = [resource.getrlimit(each) for each in range(16)]
proc = open("/proc/self/status").read()
fields = [line for line in proc.splitlines() if line.startswith(("Sig", "Cap", "Sec"))]
leads = os.getpgid(0) == os.getsid(0) == os.getpid()
limits, fields, leads, os.umask(18), sorted(os.listdir("/proc/self/fd"))[:3]
"""
    await spare(runner)
    made = await runner.code.create(NewContext("python", b"/tmp"))
    late = await cell(runner, code, context=made.name)
    ahead = await cell(runner, code)
    assert ahead.text == late.text
    assert "True, 18" in str(ahead.text)
    tried = await cell(runner, "open('/proc/self/mem')")
    assert tried.name == "PermissionError"


async def test_it_ends_with_a_restart(runner: Runner) -> None:
    """A context that took it can be restarted as any other."""
    first = await spare(runner)
    await cell(runner, "x = 1")
    await runner.code.restart("python")
    assert not first.is_running()
    ran = await cell(runner, "x")
    assert (ran.name, ran.started.notice) == ("NameError", "")


@pytest.mark.slow
@pytest.mark.parametrize("limits", [Limits(processes=63), Limits(memory=127 * MIB)])
async def test_there_is_none_within_narrow_limits(limits: Limits) -> None:
    """Where its processes or its memory would be missed, there is none."""
    async with sandbox(limits=limits) as runner:
        assert (await cell(runner, "1")).text == "1"
        await run(runner, "sleep", "1")
        assert len(interpreters(runner)) == 1


@pytest.mark.slow
async def test_none_is_made_while_a_call_runs(runner: Runner) -> None:
    """The next one is forked when the answer is out, not beside the code."""
    await spare(runner)
    code = "import time\nprint('on', flush=True)\ntime.sleep(600)"
    async with aclosing(singly(runner.code.run(Code(code)))) as events:
        await anext(events)
        await run(runner, "sleep", "1")
        assert len(interpreters(runner)) == 1
    await spare(runner, known=1)
