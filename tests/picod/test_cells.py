"""What code does in a context: values, output, errors, as in a good notebook."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from picod._code import Code, CodeEnd
from picod._runner import Limits, Output
from tests.picod.cells import cell
from tests.picod.sandboxes import sandbox, singly, write

if TYPE_CHECKING:
    from picod._runner import Runner


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1+1", "2"),
        ("x = 3\nx * 2", "6"),
        ("'a'\n", "'a'"),
        ("1; 2", "2"),
        ("None", None),
        ("x = 1", None),
        ("", None),
        ("# nothing", None),
        ("5;", None),
        ("def f(): return 1", None),
        ("import asyncio\nawait asyncio.sleep(0, 'slept')", "'slept'"),
        ("[n async for n in (lambda: (_ for _ in ()))()]", None),
        (
            "__name__, sys.argv if (sys := __import__('sys')) else 0",
            "('__main__', [''])",
        ),
    ],
)
async def test_the_last_value(runner: Runner, code: str, text: str | None) -> None:
    """The value of the last expression is the result, unless it says otherwise."""
    ran = await cell(runner, code)
    assert ran.text == text
    if "async for" not in code:
        assert ran.fault is None
    assert ran.finished.cause is CodeEnd.ENDED


async def test_state_is_kept(runner: Runner) -> None:
    """What one call defines the next one has: names, imports, classes, futures."""
    await cell(runner, "from __future__ import annotations\nimport math, pickle\nx = 4")
    await cell(runner, "class A:\n    n: not_defined = 1\ndef f(): return A()")
    assert (await cell(runner, "math.sqrt(x)")).text == "2.0"
    assert (await cell(runner, "pickle.loads(pickle.dumps(f())).n")).text == "1"
    assert (await cell(runner, "_ + 1")).text == "2"
    assert (await cell(runner, "1")).started.count == 6


async def test_awaiting_keeps_its_loop(runner: Runner) -> None:
    """Tasks and locks of one cell live on in the next; `asyncio.run` works beside."""
    code = "import asyncio\nasync def go(): return 7\ntask = asyncio.create_task(go())"
    ran = await cell(runner, f"{code}\nawait asyncio.sleep(0)")
    assert ran.fault is None
    assert (await cell(runner, "await task")).text == "7"
    assert (await cell(runner, "asyncio.run(go())")).text == "7"
    assert (await cell(runner, "await go()")).text == "7"


async def test_output_keeps_its_order(runner: Runner) -> None:
    """Both streams, results and other programs come in the order of the code."""
    code = """
import os, subprocess, sys
print("a", end="")
print("b", file=sys.stderr)
display(1)
os.system("echo c")
print("d")
subprocess.run(["sh", "-c", "echo e >&2"])
sys.stdout.buffer.write(b"f\\xff")
sys.stderr.write("g")
"""
    ran = await cell(runner, code)
    joined: list[tuple[str, bytes]] = []
    for stream, data in ran.outputs:
        if joined and joined[-1][0] == stream:
            joined.append((stream, joined.pop()[1] + data))
        else:
            joined.append((stream, data))
    assert joined == [
        ("stdout", b"a"),
        ("stderr", b"b\n"),
        ("stdout", b"c\nd\n"),
        ("stderr", b"e\n"),
        ("stdout", b"f\xff"),
        ("stderr", b"g"),
    ]
    assert [each.main for each in ran.results] == [False, True]


async def test_what_cannot_be_encoded_is_printed(runner: Runner) -> None:
    """No character makes `print` fail."""
    ran = await cell(runner, "print('\\ud800 ä')")
    assert (ran.stdout, ran.fault) == (b"\\ud800 \xc3\xa4\n", None)


FORMS = """
class Rich:
    def __repr__(self): return "rich"
    def _repr_html_(self): return "<b>rich</b>"
    def _repr_markdown_(self): return "**rich**", {"meta": 1}
    def _repr_latex_(self): return "$r$"
    def _repr_svg_(self): return "<svg/>"
    def _repr_png_(self): return b"\\x89PNG"
    def _repr_jpeg_(self): return "/9g="
    def _repr_json_(self): return {"rich": [1]}
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": "<i>whole</i>", "application/x-own": {"a": 1}}
Rich()
"""


async def test_a_value_in_all_its_forms(runner: Runner) -> None:
    """Every `_repr_…_` gives a form; metadata is left out, JSON is JSON."""
    (result,) = (await cell(runner, FORMS)).results
    assert result.data == {
        "text/plain": b"rich",
        "text/html": b"<i>whole</i>",
        "application/x-own": b'{"a": 1}',
        "text/markdown": b"**rich**",
        "text/latex": b"$r$",
        "image/svg+xml": b"<svg/>",
        "image/png": b"\x89PNG",
        "image/jpeg": base64.b64decode("/9g="),
        "application/json": b'{"rich": [1]}',
    }
    assert (await cell(runner, "Rich")).results[0].data.keys() == {"text/plain"}


async def test_display(runner: Runner) -> None:
    """`display` shows values at once, also forms that are ready."""
    ran = await cell(runner, "display(1, 'b'); display({'text/html': '<p>'}, raw=True)")
    assert [each.data for each in ran.results] == [
        {"text/plain": b"1"},
        {"text/plain": b"'b'"},
        {"text/html": b"<p>"},
    ]
    assert not any(each.main for each in ran.results)


async def test_strange_forms(runner: Runner) -> None:
    """Names that fall together, too many or too long ones do no harm."""
    code = "display({'\\xe9': 'a', '\\xe8': 'bb', 'x' * 999: 'c'}, raw=True)"
    (result,) = (await cell(runner, code)).results
    assert result.data == {"?": b"bb", "x" * 255: b"c"}
    code = "display({str(n) * 99: 'a' for n in range(5000)}, raw=True); 1"
    ran = await cell(runner, code)
    assert len(ran.results[0].data) == 32
    assert ran.text == "1"
    ran = await cell(runner, "display({'a': object()}, raw=True)")
    assert ran.name == "TypeError"


async def test_a_form_that_fails_is_left_out(runner: Runner) -> None:
    """A broken `_repr_html_` costs the HTML, and says so."""
    code = "class A:\n    def _repr_html_(self): raise ValueError('no')\n"
    ran = await cell(runner, f"{code}    def __repr__(self): return 'A'\nA()")
    assert ran.text == "A"
    assert b"ValueError: no" in ran.stderr
    assert ran.fault is None


async def test_tracebacks_show_the_code(runner: Runner) -> None:
    """The user's own lines, of every cell, and none of ours."""
    await cell(runner, "def f(x):\n    return 1 / x  # here")
    ran = await cell(runner, "f(1)\nf(0)")
    assert ran.fault
    assert (ran.fault.name, ran.fault.value) == (
        "ZeroDivisionError",
        "division by zero",
    )
    lines = ran.fault.traceback.splitlines()
    assert lines[1:3] == ['  File "<cell 2>", line 2, in <module>', "    f(0)"]
    assert lines[3] == '  File "<cell 1>", line 2, in f'
    assert "return 1 / x  # here" in lines[4]
    assert "picod" not in ran.fault.traceback


async def test_tracebacks_of_awaited_code(runner: Runner) -> None:
    """The event loop between does not show."""
    ran = await cell(runner, "async def f():\n    raise KeyError('k')\nawait f()")
    assert ran.fault
    assert "line 2, in f" in ran.fault.traceback
    assert "asyncio" not in ran.fault.traceback


@pytest.mark.parametrize(
    ("code", "shown"),
    [("x = (\n", "'(' was never closed"), ("if then", "if then"), ("a\0b", "")],
)
async def test_syntax_errors_are_shown(runner: Runner, code: str, shown: str) -> None:
    """A syntax error has its line and its place, and no frames."""
    if "\0" in code:
        code = "exec('a\\0b')"
    ran = await cell(runner, code)
    assert ran.fault
    assert shown in ran.fault.traceback
    if shown:
        assert ran.fault.name == "SyntaxError"
        assert "<cell 1>" in ran.fault.traceback
        assert "picod" not in ran.fault.traceback


async def test_warnings_show_the_line(runner: Runner) -> None:
    """A warning comes each time, with the code's line."""
    for count in (1, 2):
        ran = await cell(runner, "import warnings\nwarnings.warn('careful')")
        assert f"<cell {count}>:2: UserWarning: careful" in ran.stderr.decode()
        assert b"warnings.warn('careful')" in ran.stderr


@pytest.mark.parametrize(
    "code", ["input('name? ')", "import sys; sys.stdin.readline() or input()"]
)
async def test_input_is_refused(runner: Runner, code: str) -> None:
    """Nobody can be asked, and the error says what to do instead."""
    ran = await cell(runner, code)
    assert ran.fault
    assert ran.fault.name == "EOFError"
    assert "put the value into the code" in ran.fault.value


@pytest.mark.parametrize(
    "code", ["exit()", "quit(0)", "import sys; sys.exit()", "raise SystemExit"]
)
async def test_exit_ends_the_cell_alone(runner: Runner, code: str) -> None:
    """`exit()` is the end of the cell; the context goes on with its state."""
    await cell(runner, "x = 1")
    ran = await cell(runner, f"print('before'); {code}\nprint('after')")
    assert (ran.stdout, ran.fault) == (b"before\n", None)
    assert (await cell(runner, "x")).text == "1"


async def test_exit_with_a_status_is_an_error(runner: Runner) -> None:
    """A program that ends itself as failed has failed."""
    ran = await cell(runner, "import sys; sys.exit('no such thing')")
    assert ran.fault
    assert (ran.fault.name, ran.fault.value) == ("SystemExit", "no such thing")


async def test_it_is_like_python3(runner: Runner) -> None:
    """Modules beside the code, packages, environment and folder are as for commands."""
    await write(runner, b"/workspace/mine.py", b"VALUE = 'found'")
    code = "import json, mine, os, sys; json.dumps([mine.VALUE, os.getcwd(), sys.path])"
    ran = await cell(runner, code, environment={"TOLD": "yes"})
    assert ran.text
    value, folder, path = json.loads(ran.text.strip("'"))
    assert (value, folder) == ("found", "/workspace")
    assert any(each.endswith("-packages") for each in path)
    assert (await cell(runner, "os.environ['TOLD'], os.environ['HOME']")).text == str(
        ("yes", "/workspace")
    )
    flags = "subprocess._args_from_interpreter_flags()"
    shown = "import sys; print(sys.flags.isolated, sys.flags.no_site)"
    spawned = f"import subprocess\nargv = [sys.executable, *{flags}, '-c', {shown!r}]"
    ran = await cell(runner, spawned + "\nsubprocess.run(argv, check=True)")
    assert ran.stdout == b"0 0\n"
    assert (await cell(runner, "import picod")).name == "ModuleNotFoundError"


async def test_processes_of_the_code(runner: Runner) -> None:
    """Pools, forks and pipes work, and what they print is there once."""
    code = """
import multiprocessing, os, sys
def double(n):
    print("in", n, flush=True)
    return 2 * n
print("before", end=" ")
with multiprocessing.get_context("fork").Pool(2) as pool:
    answer = pool.map(double, range(3))
answer
"""
    ran = await cell(runner, code)
    assert ran.text == "[0, 2, 4]"
    assert sorted(ran.stdout.replace(b"before ", b"").splitlines()) == [
        b"in 0",
        b"in 1",
        b"in 2",
    ]
    assert ran.stdout.count(b"before") == 1


async def test_a_fork_does_not_answer_twice(runner: Runner) -> None:
    """A copy of the interpreter ends where the cell ends; its status is its own."""
    code = "import os\npid = os.fork()\nif not pid: print('child')\n"
    code += "status = os.waitpid(pid, 0)[1] if pid else None\n'once', status"
    ran = await cell(runner, code)
    assert (ran.stdout, ran.text) == (b"child\n", "('once', 0)")
    assert len(ran.results) == 1
    ran = await cell(
        runner, "pid = os.fork()\nif not pid: exit(3)\nos.waitpid(pid, 0)[1] >> 8"
    )
    assert ran.text == "3"
    ran = await cell(
        runner, "pid = os.fork()\nif not pid: 1/0\nos.waitpid(pid, 0)[1] >> 8"
    )
    assert ran.text == "1"
    assert ran.fault is None
    assert b"ZeroDivisionError" in ran.stderr
    assert (await cell(runner, "pid > 0")).text == "True"


async def test_output_of_the_background(runner: Runner) -> None:
    """A thread prints into the call that runs; between calls it is dropped."""
    code = """
import threading, time
go, printed = threading.Event(), threading.Event()
def work():
    print("between")
    printed.set()
    go.wait()
    print("later")
    printed.set()
thread = threading.Timer(0.05, work)
thread.start()
"""
    assert (await cell(runner, code)).stdout == b""
    ran = await cell(
        runner, "printed.wait(); printed.clear(); go.set(); printed.wait()"
    )
    assert ran.stdout in {b"later\n", b"between\nlater\n"}


async def test_output_beyond_the_limit_is_counted() -> None:
    """Output and results beyond the limit are left out, and counted to the byte."""
    limits = Limits(output=100_000)
    async with sandbox(limits=limits) as runner:
        ran = await cell(runner, "print('x' * 250_000); 'y' * 10")
        assert (len(ran.stdout), ran.finished.output_omitted) == (100_000, 150_001)
        assert (ran.results, ran.finished.results_omitted) == ([], 1)
        assert ran.fault is None
        assert (await cell(runner, "1")).text == "1"


async def test_large_results_are_cut_with_a_note(runner: Runner) -> None:
    """A long text keeps its beginning, a form that is too large is left out."""
    (result,) = (await cell(runner, "'x' * 1_000_000")).results
    assert len(result.data["text/plain"]) == 256 * 1024
    assert result.cut == {"text/plain": "the first 262,144 of 1,000,002 bytes"}
    code = "class A:\n    def _repr_html_(self): return 'h' * 4_000_000\nA()"
    (result,) = (await cell(runner, code)).results
    assert result.cut == {
        "text/html": "left out: 4,000,000 bytes, at most 3,145,728 in all"
    }
    code = "class A:\n    def _repr_html_(self): return 'h' * 3_000_000\nA()"
    (result,) = (await cell(runner, code)).results
    assert len(result.data["text/html"]) == 3_000_000


async def test_long_tracebacks_lose_their_middle(runner: Runner) -> None:
    """An error is told whole or with a note of what is missing."""
    ran = await cell(runner, "raise ValueError('v' * 100_000)")
    assert ran.fault
    assert "of 100,000 bytes are left out" in ran.fault.value
    assert ran.fault.value.endswith("v")
    assert len(ran.fault.traceback) < 30_000
    ran = await cell(runner, "raise ValueError('\\N{SNAKE}\\ud800' * 100_000)")
    assert ran.name == "ValueError"


async def test_output_comes_as_it_is_written(runner: Runner) -> None:
    """A line is told while the code goes on."""
    code = "import time\nprint('first')\ntime.sleep(600)"
    events = singly(runner.code.run(Code(code)))
    async for event in events:
        if isinstance(event, Output):
            assert event.data == b"first\n"
            break
    await events.aclose()


async def test_large_code(runner: Runner) -> None:
    """Code of a mebibyte is run."""
    text = "x" * 1_000_000
    assert (await cell(runner, f"len('{text}')")).text == "1000000"
