"""The life of contexts: made, listed, restarted, deleted, interrupted, in turn."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from picod._code import Code, CodeEnd, CodeStarted, NewContext, language
from picod._errors import (
    ContextBusyError,
    ContextLimitError,
    ContextNotFoundError,
    InvalidRequestError,
    LanguageNotAvailableError,
    MissingFileError,
    ProcessLimitError,
)
from picod._runner import Limits, Output
from tests.picod.cells import cell
from tests.picod.sandboxes import alive, run, sandbox, singly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from picod._runner import Runner

FOREVER = "import time\nprint('on', flush=True)\nwhile True: time.sleep(0.01)"
STUBBORN = "import signal\nsignal.signal(2, signal.SIG_IGN)\n" + FOREVER


async def test_contexts_do_not_share_state(runner: Runner) -> None:
    """Each context has names, folder and environment of its own."""
    await cell(runner, "x = 1")
    made = await runner.code.create(NewContext("python", b"/tmp", {"A": "b"}))
    assert (made.language, made.cwd, made.count) == ("python", b"/tmp", 0)
    ran = await cell(
        runner, "import os; os.getcwd(), os.environ['A']", context=made.name
    )
    assert ran.text == "('/tmp', 'b')"
    assert (await cell(runner, "x", context=made.name)).name == "NameError"
    assert ran.started.context == made.name
    listed = (await runner.code.list()).contexts
    assert [(each.name, each.count) for each in listed] == [
        ("python", 1),
        (made.name, 2),
    ]


async def test_restart_and_delete(runner: Runner) -> None:
    """A restart forgets everything; a deleted context is unknown."""
    made = await runner.code.create(NewContext("python"))
    await cell(runner, "x = 1", context=made.name)
    restarted = await runner.code.restart(made.name)
    assert (restarted.name, restarted.count) == (made.name, 0)
    ran = await cell(runner, "x", context=made.name)
    assert (ran.name, ran.started.notice) == ("NameError", "")
    await runner.code.delete(made.name)
    for asked in (
        cell(runner, "1", context=made.name),
        runner.code.restart(made.name),
        runner.code.delete(made.name),
    ):
        with pytest.raises(ContextNotFoundError):
            await asked
    assert (await cell(runner, "1")).text == "1"


async def test_restart_kills_every_process(runner: Runner) -> None:
    """Threads, children and daemons of the code end with its interpreter."""
    code = """
import os, subprocess, threading
subprocess.Popen(["sleep", "4715.1"])
if not os.fork():
    os.setsid()
    if not os.fork():
        os.execlp("sleep", "sleep", "4715.2")
    os._exit(0)
threading.Thread(target=threading.Event().wait, daemon=False).start()
"""
    assert (await cell(runner, code)).fault is None
    while len(alive("4715.")) < 2:
        await run(runner, "true")
    await runner.code.restart("python")
    assert alive("4715.") == []


@pytest.mark.slow
async def test_a_timeout_interrupts(runner: Runner) -> None:
    """At its timeout code gets SIGINT; its traceback tells where, its state is kept."""
    await cell(runner, "x = 1")
    ran = await cell(runner, FOREVER, timeout=0.5)
    assert (ran.finished.cause, ran.finished.state_lost) == (CodeEnd.TIMEOUT, False)
    assert ran.fault
    assert ran.fault.name == "KeyboardInterrupt"
    assert "while True: time.sleep(0.01)" in ran.fault.traceback
    assert (await cell(runner, "x")).text == "1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nawait asyncio.sleep(600)",
        "import subprocess\nsubprocess.run(['sleep', '4715.3'])",
        "import threading\nthreading.Event().wait()",
        "import signal\nsignal.signal(2, lambda *_: 1/0)\n" + FOREVER,
        "class A:\n    def __repr__(self):\n        while True: pass\nA()",
        "class A(Exception):\n    def __str__(s):\n        while True: pass\nraise A",
    ],
)
async def test_a_timeout_interrupts_anything(runner: Runner, code: str) -> None:
    """Awaiting, waiting, hanging in `repr`: all is cut off, and state is kept."""
    await cell(runner, "x = 1")
    ran = await cell(runner, code, timeout=1)
    assert ran.finished.cause is CodeEnd.TIMEOUT
    assert not ran.finished.state_lost
    assert (await cell(runner, "x")).text == "1"
    assert alive("4715.3") == []


@pytest.mark.slow
async def test_what_ignores_the_interrupt_is_killed(runner: Runner) -> None:
    """Code that goes on after SIGINT is killed; the next call says what that cost."""
    await cell(runner, "import signal")
    ran = await cell(runner, STUBBORN, timeout=1)
    assert (ran.finished.cause, ran.finished.state_lost) == (CodeEnd.TIMEOUT, True)
    assert ran.name == "InterpreterDied"
    assert ran.stdout == b"on\n"
    ran = await cell(runner, "time")
    assert ran.name == "NameError"
    assert "did not end within 2 s after SIGINT" in ran.started.notice
    assert (await cell(runner, "1")).started.notice == ""


@pytest.mark.slow
@pytest.mark.parametrize(("code", "kept"), [(FOREVER, True), (STUBBORN, False)])
async def test_a_caller_who_hangs_up_interrupts(
    runner: Runner, code: str, *, kept: bool
) -> None:
    """No code goes on for nobody; state is kept if the code let itself be stopped."""
    await cell(runner, "x = 1")
    async with aclosing(singly(runner.code.run(Code(code)))) as events:
        async for event in events:
            if isinstance(event, Output):
                break
    ran = await cell(runner, "x")
    assert (ran.text == "1") is kept
    assert bool(ran.started.notice) is not kept


async def test_calls_on_one_context_take_turns(runner: Runner) -> None:
    """Calls of one context run in the order in which they came."""
    await cell(runner, "seen = []")
    calls = [cell(runner, f"seen.append({n}); len(seen)") for n in range(20)]
    ran = await asyncio.gather(*calls)
    assert [each.text for each in ran] == [str(n + 1) for n in range(20)]
    assert (await cell(runner, "seen")).text == str(list(range(20)))


async def test_contexts_run_side_by_side(runner: Runner) -> None:
    """One context does not wait for another."""
    one = await runner.code.create(NewContext("python"))
    async with aclosing(singly(runner.code.run(Code(FOREVER, one.name)))) as events:
        await anext(events)
        listed = (await runner.code.list()).contexts
        assert [(each.busy, each.waiting) for each in listed] == [(True, 0)]
        assert (await cell(runner, "1")).text == "1"


async def test_the_queue_is_bounded(runner: Runner) -> None:
    """Beyond 32 waiting calls, and at its own timeout, a call is refused as busy."""
    async with aclosing(singly(runner.code.run(Code(FOREVER)))) as events:
        await anext(events)
        with pytest.raises(ContextBusyError, match="before its turn"):
            await cell(runner, "1", timeout=0.1)
        waiting = [asyncio.ensure_future(cell(runner, "1")) for _ in range(32)]
        while (await runner.code.list()).contexts[0].waiting < 32:
            pass
        with pytest.raises(ContextBusyError, match="32 calls wait"):
            await cell(runner, "1")
        waiting.pop().cancel()
        while (await runner.code.list()).contexts[0].waiting != 31:
            pass
    assert {each.text for each in await asyncio.gather(*waiting)} == {"1"}


async def test_a_restart_while_code_runs(runner: Runner) -> None:
    """The call that runs is told; those that wait go on in the new interpreter."""
    running = asyncio.ensure_future(cell(runner, "x = 1\n" + FOREVER))
    while not (told := (await runner.code.list()).contexts) or not told[0].busy:
        pass
    waiting = asyncio.ensure_future(cell(runner, "x"))
    while not (await runner.code.list()).contexts[0].waiting:
        pass
    await runner.code.restart("python")
    ran = await running
    assert (ran.finished.cause, ran.name) == (CodeEnd.DIED, "InterpreterDied")
    assert "restarted" in ran.fault.value if ran.fault else False
    assert (await waiting).name == "NameError"


async def test_a_delete_while_code_runs(runner: Runner) -> None:
    """The call that runs is told; those that wait find their context gone."""
    made = await runner.code.create(NewContext("python"))
    running = asyncio.ensure_future(cell(runner, FOREVER, context=made.name))
    while not (await runner.code.list()).contexts[0].busy:
        pass
    waiting = asyncio.ensure_future(cell(runner, "1", context=made.name))
    while not (await runner.code.list()).contexts[0].waiting:
        pass
    await runner.code.delete(made.name)
    assert "deleted" in str((await running).fault)
    with pytest.raises(ContextNotFoundError):
        await waiting
    assert (await runner.code.list()).contexts == []


@pytest.mark.slow
async def test_contexts_are_bounded(runner: Runner) -> None:
    """A sandbox has at most 16 contexts; a deleted one makes room."""
    made = [await runner.code.create(NewContext("python")) for _ in range(16)]
    for asked in (runner.code.create(NewContext("python")), cell(runner, "1")):
        with pytest.raises(ContextLimitError):
            await asked
    await runner.code.delete(made[3].name)
    again = await runner.code.create(NewContext("python"))
    assert again.name not in {each.name for each in made}


async def test_a_context_that_cannot_be(runner: Runner) -> None:
    """Its folder and its language must be there; nothing of it is left."""
    with pytest.raises(MissingFileError):
        await runner.code.create(NewContext("python", b"/nowhere"))
    with pytest.raises(LanguageNotAvailableError):
        await runner.code.create(NewContext("cobol"))
    with pytest.raises(LanguageNotAvailableError, match="cobol"):
        language("cobol")
    nothing = {"PATH": "/nowhere"}
    for name in ("bash", "node"):
        with pytest.raises(LanguageNotAvailableError):
            await cell(runner, "1", language=name, environment=nothing)
    assert (await runner.code.list()).contexts == []
    await cell(runner, "1")
    with pytest.raises(InvalidRequestError, match="another language"):
        await cell(runner, "1", context="python", language="bash")


def test_impossible_requests() -> None:
    """What no interpreter could take is refused before it is sent."""
    for wrong in ("x" * 1_048_577, "a\0b"):
        with pytest.raises(InvalidRequestError):
            Code(wrong)
    with pytest.raises(InvalidRequestError):
        Code("1", timeout=0)
    for cwd, environment in ((b"\0", {}), (b"", {"": "x"}), (b"", {"A": "\0"})):
        with pytest.raises(InvalidRequestError):
            NewContext("python", cwd, environment)
    assert [language(name) for name in ("", "py", "sh", "js")] == [
        "",
        "python",
        "bash",
        "node",
    ]


async def test_processes_are_limited() -> None:
    """Where no process is left, a context says so, and the runner goes on."""
    async with sandbox(limits=Limits(processes=7)) as runner:
        made = [runner.code.create(NewContext("python")) for _ in range(5)]
        told = await asyncio.gather(*made, return_exceptions=True)
        assert any(isinstance(each, ProcessLimitError) for each in told)
        for each in (await runner.code.list()).contexts:
            await runner.code.delete(each.name)
        assert (await cell(runner, "1")).text == "1"


async def test_imports_are_told(runner: Runner) -> None:
    """Modules of the template are there from the start; what each took is told."""
    async with sandbox(imports=("decimal", "no_such_module", "json.tool")) as made:
        ran = await cell(
            made, "import sys; 'decimal' in sys.modules, 'json.tool' in sys.modules"
        )
        assert ran.text == "(True, True)"
        assert "no_such_module could not be imported ahead" in ran.started.notice
        decimal, missing, tool = (await made.code.list()).imports
        assert (decimal.name, decimal.error, tool.error) == ("decimal", "", "")
        assert 0 < decimal.duration < 10
        assert missing.error == "ModuleNotFoundError: No module named 'no_such_module'"
        assert (await cell(made, "decimal")).name == "NameError"
        assert (await cell(made, "1")).started.notice == ""
    assert (await runner.code.list()).imports == []


async def test_contexts_draw_different_random_numbers() -> None:
    """Forks of one parent do not repeat each other's random numbers."""
    drawn = set()
    async with sandbox(imports=("random", "uuid", "tempfile")) as made:
        for _ in range(3):
            context = await made.code.create(NewContext("python"))
            code = "import random, uuid; random.random(), uuid.uuid4()"
            drawn.add((await cell(made, code, context=context.name)).text)
    assert len(drawn) == 3


async def test_the_end_of_the_sandbox(runner: Runner) -> None:
    """Interpreters and all they started end with the sandbox."""
    await cell(runner, "import subprocess; subprocess.Popen(['sleep', '4715.4'])")
    assert alive("4715.4")
    await runner.aclose()
    assert alive("4715.4") == []


async def test_commands_and_code_side_by_side(runner: Runner) -> None:
    """What code starts does not end with a command, nor the other way round."""
    await cell(runner, "import subprocess; p = subprocess.Popen(['sleep', '4715.5'])")
    await run(runner, "sh", "-c", "sleep 4715.6 & true")
    assert (await cell(runner, "p.poll()")).fault is None
    assert len(alive("4715.5")) == 1
    assert alive("4715.6") == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that the sandbox's user can reach."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


async def test_without_isolation(open_folder: Path) -> None:
    """At level `none` contexts work as well, and nothing of them is left."""
    async with sandbox(level="none", folder=open_folder) as runner:
        await cell(
            runner, "x = 1; import subprocess; subprocess.Popen(['sleep', '4715.7'])"
        )
        assert (await cell(runner, "x")).text == "1"
        assert alive("4715.7")
    assert alive("4715.7") == []


async def test_started_comes_first_and_names_the_context(runner: Runner) -> None:
    """The first event of a call is its turn."""
    async with aclosing(
        singly(runner.code.run(Code("1", language="python")))
    ) as events:
        first = await anext(events)
    assert first == CodeStarted("python", 1, "")
