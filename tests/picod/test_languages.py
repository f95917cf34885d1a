"""Languages beside Python keep the same contract."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from picod._code import CodeEnd
from tests.picod.cells import cell

if TYPE_CHECKING:
    from picod._runner import Runner

node = pytest.mark.skipif(
    shutil.which("node", path="/usr/local/bin:/usr/bin:/bin") is None,
    reason="no node on this machine",
)


async def bash(runner: Runner, code: str, **settings: float) -> tuple[str, str, str]:
    ran = await cell(runner, code, language="bash", **settings)
    status = ran.fault.value if ran.fault else ""
    return ran.stdout.decode(), ran.stderr.decode(), status


async def test_bash_keeps_its_state(runner: Runner) -> None:
    """Variables, functions, folder and options stay from cell to cell."""
    assert await bash(runner, "x=5; f() { echo f$1; }; cd /tmp; echo $0") == (
        "bash\n",
        "",
        "",
    )
    assert await bash(runner, "f $x; pwd") == ("f5\n/tmp\n", "", "")
    many = "cat <<END\nx is $x\nEND\nfor i in 1 2; do\n  echo $i\ndone"
    assert await bash(runner, many) == ("x is 5\n1\n2\n", "", "")


async def test_bash_tells_its_status(runner: Runner) -> None:
    """A status other than 0 is an error; so is a syntax error, with its line."""
    ran = await cell(runner, "(exit 7)", language="bash")
    assert ran.fault
    assert (ran.fault.name, ran.fault.value) == ("ExitStatus", "7")
    out, error, status = await bash(runner, "if then")
    assert (out, status) == ("", "2")
    assert "syntax error" in error
    assert await bash(runner, "echo fine; true") == ("fine\n", "", "")


@pytest.mark.slow
async def test_bash_is_interrupted(runner: Runner) -> None:
    """A timeout ends the cell, whatever runs in it, and keeps the shell."""
    await bash(runner, "x=1")
    for code in ("sleep 600; echo not", "while :; do :; done; echo not"):
        ran = await cell(runner, code, language="bash", timeout=1)
        assert ran.finished.cause is CodeEnd.TIMEOUT
        assert (ran.stdout, ran.name) == (b"", "Interrupted")
        assert not ran.finished.state_lost
    assert (await bash(runner, "echo $x"))[0] == "1\n"


async def test_bash_that_exits(runner: Runner) -> None:
    """`exit` ends the shell; the next cell has a new one and says so."""
    ran = await cell(runner, "echo bye; exit 3", language="bash")
    assert (ran.stdout, ran.name) == (b"bye\n", "InterpreterDied")
    assert "status 3" in str(ran.fault)
    assert ran.finished.state_lost
    ran = await cell(runner, "echo new", language="bash")
    assert (ran.stdout, ran.fault) == (b"new\n", None)
    assert "status 3" in ran.started.notice


@pytest.mark.slow
async def test_bash_whose_pipes_are_closed(runner: Runner) -> None:
    """A shell that cannot answer any more is given up at the timeout."""
    code = 'for n in $(seq 3 255); do eval "exec $n>&- $n<&-" 2>/dev/null; done'
    await bash(runner, "true")
    ran = await cell(runner, code, language="bash", timeout=0.5)
    assert ran.finished.state_lost
    assert (await bash(runner, "echo new"))[0] == "new\n"


@node
async def test_node_keeps_its_state(runner: Runner) -> None:
    """Bindings stay, the last value is the result, promises are awaited."""
    ran = await cell(runner, "const a = 6; console.log('hi')", language="node")
    assert (ran.stdout, ran.text, ran.fault) == (b"hi\n", None, None)
    assert (await cell(runner, "a * 7", language="node")).text == "42"
    assert (await cell(runner, "await Promise.resolve(a)", language="node")).text == "6"
    code = "function f(x) {\n  return { x };\n}\nf(a)"
    assert (await cell(runner, code, language="node")).text == "{ x: 6 }"
    code = "require('fs').readdirSync('.').length"
    assert (await cell(runner, code, language="node")).text == "0"


@node
async def test_node_tells_its_errors(runner: Runner) -> None:
    """Errors have class, text and the lines of the code, none of ours."""
    code = "function g() {\n  throw new TypeError('no');\n}\ng()"
    ran = await cell(runner, code, language="node")
    assert ran.fault
    assert (ran.fault.name, ran.fault.value) == ("TypeError", "no")
    assert "at g (<cell 1>:2:9)" in ran.fault.traceback
    assert "eval" not in ran.fault.traceback
    assert (await cell(runner, "let = ", language="node")).name == "SyntaxError"
    assert (await cell(runner, "throw 5", language="node")).name == "Error"
    late = "setTimeout(() => { throw new RangeError('late') }, 1)"
    code = f"{late}; await new Promise(() => {{}})"
    assert (await cell(runner, code, language="node")).name == "RangeError"
    assert (await cell(runner, "1", language="node")).text == "1"


@node
@pytest.mark.slow
async def test_node_is_interrupted(runner: Runner) -> None:
    """A timeout ends a loop and keeps what was defined."""
    await cell(runner, "var x = 1", language="node")
    for code in ("while (true) {}", "await new Promise(() => {})"):
        ran = await cell(runner, code, language="node", timeout=0.5)
        assert ran.finished.cause is CodeEnd.TIMEOUT
        assert not ran.finished.state_lost, code
    assert (await cell(runner, "x", language="node")).text == "1"


@node
async def test_node_that_exits(runner: Runner) -> None:
    """`process.exit` ends it; the next cell has a new one."""
    ran = await cell(runner, "process.exit(4)", language="node")
    assert "status 4" in str(ran.fault)
    assert (await cell(runner, "1", language="node")).text == "1"
