"""Code that means harm, and interpreters that die: told, and nobody else is hurt."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from picod._code import Code, CodeEnd, NewContext
from picod._errors import ProcessLimitError
from picod._runner import Limits, Output
from tests.picod.cells import cell
from tests.picod.sandboxes import alive, run, sandbox, singly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from picod._runner import Runner

MIB = 1024 * 1024


@pytest.fixture
async def neighbour(runner: Runner) -> AsyncIterator[Runner]:
    """Yield the runner with a second context, which must be as it was at the end."""
    made = await runner.code.create(NewContext("python"))
    await cell(runner, "kept = 'kept'", context=made.name)
    yield runner
    assert runner.fault is None
    assert (await cell(runner, "kept", context=made.name)).text == "'kept'"
    assert (await run(runner, "true")).code == 0


SURVIVED = {
    "builtins replaced": """
import builtins
for name in dir(builtins):
    if name not in ("display", "exec", "setattr", "__import__", "__build_class__"):
        setattr(builtins, name, None)
""",
    "descriptors closed": "import os; os.closerange(0, 1024)",
    "hooks replaced": """
import sys
def hostile(*_): raise SystemExit(9)
sys.excepthook = sys.displayhook = sys.unraisablehook = hostile
""",
    "streams replaced": """
import sys
class Hostile:
    def __getattr__(self, name): raise RuntimeError(name)
sys.stdout = sys.stderr = sys.stdin = Hostile()
""",
    "streams gone": "import sys; sys.stdout = sys.stderr = None",
    "streams closed": "import sys; sys.stdout.close(); sys.stderr.close()",
    "modules replaced": """
import os, sys, io, linecache, traceback
for module in (os, io, linecache, traceback):
    for name in dir(module):
        if name not in ("__spec__", "__name__"):
            setattr(module, name, None)
sys.modules.clear()
""",
    "signal handlers": """
import signal
for number in range(1, 32):
    try: signal.signal(number, lambda *_: 1 / 0)
    except (OSError, ValueError): pass
""",
    "tracing": """
import sys
sys.settrace(lambda *_: 1/0)
sys.setprofile(lambda *_: 1/0)
""",
    "odd exceptions": """
class Odd(BaseException):
    def __str__(self): raise self
    __repr__ = __str__
    __name__ = 5
raise Odd
""",
    "odd names": "raise type('x' * 1000, (Exception,), {})",
    "deep recursion": "def f(): f()\nf()",
    "deep repr": "x = []\nfor _ in range(100_000): x = [x]\nx",
    "huge integers": "10 ** 5000",
}


@pytest.mark.parametrize("code", SURVIVED.values(), ids=SURVIVED)
async def test_hostile_code_hurts_itself_at_most(neighbour: Runner, code: str) -> None:
    """Whatever code does to its interpreter: the call ends, and the next one runs."""
    ran = await cell(neighbour, code, timeout=20)
    assert ran.finished.cause is CodeEnd.ENDED
    ran = await cell(neighbour, "40 + 2", timeout=20)
    assert (ran.text, ran.finished.cause) == ("42", CodeEnd.ENDED)


OVERFLOW = """
import sys
sys.setrecursionlimit(10**9)
class A:
    def __getattr__(self, name): return getattr(self, name + "x")
A().x
"""
DIED = {
    "os._exit": ("import os; os._exit(3)", "ended itself with status 3"),
    "kill -9 itself": ("import os; os.kill(os.getpid(), 9)", "killed"),
    "SIGTERM": ("import os; os.kill(os.getpid(), 15)", "signal 15"),
    "crash": ("import ctypes; ctypes.string_at(0)", "signal 11"),
    "kill its parent": (
        "import os, time; os.kill(os.getppid(), 9); time.sleep(60)",
        "",
    ),
    "kill everything": ("import os, time; os.kill(-1, 9); time.sleep(60)", ""),
    "exec": ("import os; os.execlp('true', 'true')", "ended itself with status 0"),
    "its socket closed": ("import os; os.closerange(0, 9999)", "closed its connection"),
    "stack overflow": (OVERFLOW, ""),
}


@pytest.mark.parametrize(("code", "fate"), DIED.values(), ids=DIED)
async def test_an_interpreter_that_dies_says_so(
    runner: Runner, code: str, fate: str
) -> None:
    """The call tells how it died; the next one has a new interpreter, and is told."""
    await cell(runner, "x = 1")
    ran = await cell(runner, f"print('said', flush=True)\n{code}", timeout=30)
    assert ran.stdout == b"said\n"
    assert ran.fault
    if ran.name not in {"RecursionError", "MemoryError"}:
        assert (ran.finished.cause, ran.name) == (CodeEnd.DIED, "InterpreterDied")
        assert ran.finished.state_lost
        assert fate in ran.fault.value
        ran = await cell(runner, "x")
        assert ran.name == "NameError"
        assert "what was defined is gone" in ran.started.notice
    assert (await cell(runner, "1")).text == "1"
    assert runner.fault is None


async def test_an_interpreter_that_dies_between_calls(runner: Runner) -> None:
    """A death that nobody saw is told by the next call."""
    code = "import os, threading\nthreading.Timer(0.05, os._exit, (5,)).start()"
    await cell(runner, code)
    while (await runner.code.list()).contexts[0].count:
        pass
    ran = await cell(runner, "os")
    assert ran.name == "NameError"
    assert "status 5" in ran.started.notice


async def test_exhausted_memory_is_an_exception(neighbour: Runner) -> None:
    """A process that asks for more than the limit gets MemoryError, and lives."""
    ran = await cell(neighbour, "x = bytearray(2 * 1024**3)", timeout=30)
    assert ran.name == "MemoryError"
    assert (await cell(neighbour, "1")).text == "1"


@pytest.mark.slow
async def test_memory_of_many_processes_is_limited() -> None:
    """Together they may hold no more than one; all are ended, and say why."""
    async with sandbox(limits=Limits(memory=200 * MIB)) as runner:
        code = """
import os, time
for n in range(4):
    if not os.fork():
        x = b"x" * (100 * 1024**2)
        time.sleep(60)
time.sleep(60)
"""
        ran = await cell(runner, code, timeout=50)
        assert ran.name == "InterpreterDied"
        assert "for the memory" in str(ran.fault)
        assert (await cell(runner, "1")).text == "1"


async def test_shared_memory_of_the_nursery_counts_once() -> None:
    """What interpreters share with their parent does not end them."""
    imports = ("decimal", "json", "email.message", "asyncio", "unittest", "xml.dom")
    async with sandbox(limits=Limits(memory=64 * MIB), imports=imports) as runner:
        for _ in range(12):
            await runner.code.create(NewContext("python"))
        ran = await cell(runner, "import time; time.sleep(0.6); 1")
        assert ran.text == "1"


@pytest.mark.slow
async def test_forking_in_a_loop(neighbour: Runner) -> None:
    """A fork bomb ends at the process limit, and with its call's interpreter."""
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    ran = await cell(neighbour, code, timeout=1)
    assert ran.finished.cause in {CodeEnd.TIMEOUT, CodeEnd.DIED}
    await neighbour.code.restart("python")
    assert (await cell(neighbour, "1")).text == "1"


async def test_printing_a_gibibyte() -> None:
    """Output without end costs neither memory nor the context."""
    async with sandbox(limits=Limits(output=MIB)) as runner:
        code = "import sys\nfor _ in range(1024): sys.stdout.write('x' * 1024 ** 2)"
        ran = await cell(runner, code, timeout=60)
        assert ran.fault is None
        assert len(ran.stdout) == MIB
        assert ran.finished.output_omitted == 1023 * MIB
        ran = await cell(runner, "import os; os.system('head -c 100000000 /dev/zero')")
        assert ran.finished.output_omitted == 100_000_000 - MIB
        assert (await cell(runner, "1")).text == "1"


async def test_a_reader_who_stops_holds_the_code_back(runner: Runner) -> None:
    """Nothing piles up for a caller who does not read; others go on."""
    code = "n = 0\nwhile True:\n    print('x' * 1000)\n    n += 1"
    async with aclosing(singly(runner.code.run(Code(code)))) as events:
        async for event in events:
            if isinstance(event, Output):
                break
        inside = psutil.Process(runner.pid)
        before = sum(each.memory_info().rss for each in inside.children(recursive=True))
        for _ in range(20):
            assert (await run(runner, "true")).code == 0
        after = sum(each.memory_info().rss for each in inside.children(recursive=True))
        assert after - before < 20 * MIB
    assert int((await cell(runner, "n")).text or "0") < 10_000


async def test_the_killed_nursery_is_replaced(runner: Runner) -> None:
    """Contexts live on without the nursery, and new ones have a new one."""
    code = """
import os
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid(), os.getppid()):
        try: os.kill(int(name), 9)
        except OSError: pass
x = 1
"""
    assert (await cell(runner, code)).fault is None
    assert (await cell(runner, "x")).text == "1"
    await runner.code.restart("python")
    assert (await cell(runner, "2")).text == "2"


@pytest.mark.slow
async def test_killing_at_every_stage(runner: Runner) -> None:
    """Kill -9 of whatever there is, at any moment: the call ends, the next one runs."""
    inside = psutil.Process(runner.pid)
    first = inside.children()[0].pid
    for round_ in range(60):
        call = asyncio.ensure_future(cell(runner, "sum(range(10_000))", timeout=30))
        for _ in range(round_):
            await turn()
        for process in inside.children(recursive=True):
            if process.pid != first:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        with suppress(ProcessLimitError):  # told after three interpreters in vain
            await call
    await cell(runner, "0", timeout=30)  # the last one to be killed may take it along
    assert (await cell(runner, "1", timeout=30)).text == "1"
    assert runner.fault is None


async def turn() -> None:
    """Let the event loop go round once."""
    loop = asyncio.get_running_loop()
    gone = loop.create_future()
    loop.call_soon(gone.set_result, None)
    await gone


@pytest.mark.parametrize("stopped", ["nursery", "all"])
@pytest.mark.slow
async def test_stopped_processes_are_gone_round(runner: Runner, stopped: str) -> None:
    """SIGSTOP from inside delays nobody else."""
    await cell(runner, "x = 1")
    code = """
import os, signal
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) not in (1, os.getpid(), os.getppid()):
        try: os.kill(int(name), signal.SIGSTOP)
        except OSError: pass
"""
    if stopped == "all":
        code += "os.kill(os.getppid(), signal.SIGSTOP)"
    assert (await cell(runner, code)).fault is None
    made = await runner.code.create(NewContext("python"))
    assert (await cell(runner, "1", context=made.name)).text == "1"
    await runner.code.restart("python")
    assert (await cell(runner, "1")).text == "1"


async def test_an_import_that_ends_or_blocks_the_nursery() -> None:
    """A module that ends its process costs itself alone, and is told."""
    async with sandbox(imports=("json", "antigravity_of_no_kind", "this")) as runner:
        assert (await cell(runner, "import sys; 'this' in sys.modules")).text == "True"
        told = {each.name: each.error for each in (await runner.code.list()).imports}
        assert told["json"] == told["this"] == ""
        assert "ModuleNotFoundError" in told["antigravity_of_no_kind"]


async def test_forged_frames_reach_nobody_else(neighbour: Runner) -> None:
    """What code writes to its socket ends its own interpreter at most."""
    find = """
import os
number = max(map(int, os.listdir("/proc/self/fd")))
"""
    assert (await cell(neighbour, find)).fault is None
    forgeries = (
        "b'junk'",
        "(5).to_bytes(4, 'big') + bytes([99]) + (1).to_bytes(4, 'big') + b'xxxxx'",
        "(70000).to_bytes(4, 'big') + bytes([9]) + (1).to_bytes(4, 'big')",
        "(3).to_bytes(4, 'big') + bytes([15]) + (COUNT).to_bytes(4, 'big') + b'le1'",
        "(2).to_bytes(4, 'big') + bytes([4]) + (COUNT).to_bytes(4, 'big') + b'xx'",
    )
    for forgery in forgeries:
        await cell(neighbour, find)
        count = (await neighbour.code.list()).contexts[-1].count + 1
        forged = forgery.replace("COUNT", str(count))
        code = f"import time; os.write(number, {forged}); time.sleep(9)"
        ran = await cell(neighbour, code, timeout=5)
        assert (ran.name, ran.finished.cause) == ("InterpreterDied", CodeEnd.DIED)
        assert "broke the protocol" in str(ran.fault)
    done = "(2).to_bytes(4, 'big') + bytes([13]) + (COUNT).to_bytes(4, 'big') + b'de'"
    await cell(neighbour, find)
    count = (await neighbour.code.list()).contexts[-1].count + 1
    code = f"os.write(number, {done.replace('COUNT', str(count))}); 'late'"
    assert (await cell(neighbour, code)).fault is None
    ran = await cell(neighbour, "'next'")
    assert ran.text == "'next'"


async def test_nothing_is_left_of_many_contexts() -> None:
    """No descriptor and no process stays behind a context."""

    async def once(runner: Runner) -> None:
        made = await runner.code.create(NewContext("python"))
        await cell(
            runner,
            "import subprocess; subprocess.Popen(['sleep', '4716.1'])",
            context=made.name,
        )
        await runner.code.delete(made.name)

    async with sandbox(limits=Limits(processes=63)) as made:  # without a spare one
        await once(made)
        inside = psutil.Process(made.pid).children()[0]
        before = inside.num_fds()
        for _ in range(10):
            await once(made)
        assert inside.num_fds() == before
        assert alive("4716.1") == []
