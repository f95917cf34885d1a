"""Commands in a real sandbox: what they do, how they end, and what they leave."""

from __future__ import annotations

import asyncio
import contextlib
import os
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil
import pytest

from picod._errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    InvalidCommandError,
    MissingFileError,
    NotAFolderError,
    PicoDError,
)
from picod._runner import Cause, Command, Exited, Limits, Output, Started
from tests.picod.process import until
from tests.picod.sandboxes import alive, python, run, sandbox, singly, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from picod._runner import Runner

FORGETFUL = """
import os, sys, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/bin/sleep", ["sleep", sys.argv[1]])
        os._exit(0)
time.sleep({})
"""


async def test_runs_a_command(runner: Runner) -> None:
    """A command's output, error output and exit status arrive, in order."""
    result = await run(runner, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.code) == (b"out\n", b"err\n", 3)
    assert result.exited.cause is Cause.ENDED
    assert result.exited.signal is None
    assert 0 < result.exited.duration < 10


async def test_gives_it_what_was_asked(runner: Runner) -> None:
    """Environment, working directory, arguments and stdin reach the command as is."""
    code = (
        "import os, sys; print(os.getcwd(), os.environ['A'], ascii(sys.argv[1:]),"
        "len(sys.stdin.read()), os.environ['HOME'])"
    )
    result = await run(
        runner,
        *("python3", "-c", code, "", "ü\n", "\udcff"),
        environment={"A": "b=c", "HOME": "/home"},
        cwd=b"/tmp",
        stdin=b"x" * 2_000_000,
    )
    told = r"/tmp b=c ['', '\xfc\n', '\udcff'] 2000000 /home"
    assert result.stdout.decode().strip() == told


async def test_a_command_that_reads_nothing_ends(runner: Runner) -> None:
    """Input that nobody reads neither blocks nor kills the command."""
    result = await run(runner, "true", stdin=b"x" * 1_000_000)
    assert result.code == 0
    assert (await run(runner, "cat")).stdout == b""


async def test_takes_large_arguments(runner: Runner) -> None:
    """Arguments beyond one frame and beyond a pipe's capacity arrive whole."""
    arguments = ["x" * 1000] * 1000
    result = await run(runner, "sh", "-c", 'echo $# "${#1}"', "sh", *arguments)
    assert result.stdout == b"1000 1000\n"


async def test_inherits_three_descriptors_only(runner: Runner) -> None:
    """A command has descriptors 0, 1 and 2, with input or without."""
    for stdin in (b"", b"x"):
        result = await python(
            runner, "import os; print(sorted(os.listdir('/proc/self/fd')))", stdin=stdin
        )
        assert result.stdout == b"['0', '1', '2', '3']\n"  # 3 is the listing itself


async def test_nothing_of_us_is_in_its_environment(runner: Runner) -> None:
    """The environment is made; none of PicoD's own variables is in it."""
    result = await run(runner, "env")
    names = {line.split(b"=")[0] for line in result.stdout.splitlines()}
    assert names == {b"HOME", b"LANG", b"LOGNAME", b"PATH", b"TMPDIR", b"USER"}


async def test_signals_have_their_defaults(runner: Runner) -> None:
    """A broken pipe kills a command as on any system, and no signal is ignored."""
    code = "yes | head -1; sed -n 's/SigIgn:.//p' /proc/self/status"
    result = await run(runner, "sh", "-c", code)
    said, ignored = result.stdout.split()
    assert said == b"y"
    assert int(ignored, 16) & ~(0b11 << 31) == 0  # 32 and 33 are libc's own


async def test_tells_the_signal_that_ended_it(runner: Runner) -> None:
    """A command ended by a signal from inside has a signal and no code."""
    result = await run(runner, "sh", "-c", "kill -TERM $$")
    assert (result.code, result.exited.signal) == (None, 15)
    assert result.exited.cause is Cause.ENDED


@pytest.mark.parametrize(
    ("argv", "settings", "error"),
    [
        (("no-such-command",), {}, CommandNotFoundError),
        (("/no/such/command",), {}, CommandNotFoundError),
        (("/etc/passwd",), {}, CommandNotExecutableError),
        (("/tmp",), {}, CommandNotExecutableError),
        (("true",), {"cwd": b"/nowhere"}, MissingFileError),
        (("true",), {"cwd": b"/etc/passwd"}, NotAFolderError),
        (("true", "x" * 200_000), {}, InvalidCommandError),
        (("true", *["x" * 2000] * 4000), {}, InvalidCommandError),
    ],
)
async def test_says_why_a_command_did_not_start(
    runner: Runner,
    argv: tuple[str, ...],
    settings: dict[str, bytes],
    error: type[PicoDError],
) -> None:
    """What cannot start fails before Started, with an error of its own kind."""
    with pytest.raises(error):
        await run(runner, *argv, **settings)
    assert (await run(runner, "true")).code == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"argv": ()},
        {"argv": ("",)},
        {"argv": ("a\0b",)},
        {"argv": ("x",) * 4097},
        {"argv": ("x",), "environment": {"a=b": "c"}},
        {"argv": ("x",), "environment": {"": "c"}},
        {"argv": ("x",), "environment": {"a": "\0"}},
        {"argv": ("x",), "stdin": b"x" * (2 * 1024 * 1024 + 1)},
        {"argv": ("x",), "timeout": 0.0},
        {"argv": ("x",), "cwd": b"\0"},
    ],
)
def test_refuses_what_no_kernel_could_run(settings: dict[str, object]) -> None:
    """A command that cannot be meant is refused before anything is sent."""
    with pytest.raises(InvalidCommandError):
        Command(**settings)  # type: ignore[arg-type]


@pytest.mark.slow
async def test_a_timeout_kills_the_whole_tree(runner: Runner) -> None:
    """At its time a command dies with all descendants; its output until then stays."""
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('said', flush=True);" + FORGETFUL.format(1000)
    )
    result = await python(runner, code.replace("sys.argv[1]", "'4711.1'"), timeout=0.5)
    assert result.stdout == b"said\n"
    assert result.exited.cause is Cause.TIMEOUT
    assert result.exited.signal == 9
    assert not alive("4711.1")


@pytest.mark.slow
async def test_stopped_processes_die_as_well(runner: Runner) -> None:
    """A tree that was stopped, its keeper included, still ends at its time."""
    code = "sleep 0.1; kill -STOP $PPID; sleep 4711.2 & kill -STOP $! ; kill -STOP $$"
    result = await run(runner, "sh", "-c", code, timeout=0.5)
    assert result.exited.cause is Cause.TIMEOUT
    assert not alive("4711.2")
    assert (await run(runner, "true")).code == 0


async def test_leftover_children_are_killed(runner: Runner) -> None:
    """When the command itself ends, whatever it left behind ends with it."""
    code = FORGETFUL.format(0).replace("sys.argv[1]", "'4711.3'")
    result = await python(runner, code)
    assert result.code == 0
    assert not alive("4711.3")


async def test_a_killed_keeper_saves_nobody(runner: Runner) -> None:
    """Killing the keeper of the own command does not let its children escape."""
    result = await run(
        runner, "sh", "-c", "setsid sleep 4711.4 & kill -KILL $PPID; wait"
    )
    assert result.exited.signal == 9
    assert not alive("4711.4")
    assert (await run(runner, "true")).code == 0


@pytest.mark.slow
async def test_killing_the_keeper_at_once(runner: Runner) -> None:
    """A keeper killed before it told of the start: the output still comes behind it."""
    for _ in range(30):
        result = await run(runner, "sh", "-c", "echo said; kill -9 $PPID; kill -9 -1")
        assert result.stdout == b"said\n"
    assert runner.fault is None


@pytest.mark.slow
async def test_killing_everybody_hurts_only_the_command(runner: Runner) -> None:
    """`kill -1`, at idle keepers too, leaves a runner that works on."""
    for signal in ("TERM", "INT", "STOP", "KILL", "CHLD"):
        with contextlib.suppress(PicoDError):
            await run(
                runner, "sh", "-c", f"kill -{signal} -1; kill -{signal} 1", timeout=1
            )
        for _ in range(3):
            assert (await run(runner, "true", timeout=5)).code == 0
    assert runner.fault is None


async def test_hanging_up_kills_the_tree(runner: Runner) -> None:
    """A caller who leaves in mid-stream takes the command with all children along."""
    code = FORGETFUL.format(1000).replace("sys.argv[1]", "'4711.5'")
    argv = ("/usr/bin/python3", "-c", "print('x', flush=True)\n" + code)
    async with aclosing(singly(runner.execute(Command(argv)))) as events:
        async for event in events:
            if isinstance(event, Output):
                break
    assert not alive("4711.5")
    assert (await run(runner, "true")).code == 0


async def test_a_cancelled_caller_kills_the_tree(runner: Runner) -> None:
    """Cancelling the task that reads has the same effect as hanging up."""
    started = asyncio.Event()

    async def read() -> None:
        async with aclosing(
            singly(runner.execute(Command(("sleep", "4711.6"))))
        ) as events:
            async for _ in events:
                started.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(read())
        await started.wait()
        task.cancel()
    assert not alive("4711.6")


async def test_output_without_end_is_cut() -> None:
    """A command that writes without end gets its limit and not a byte more."""
    async with sandbox(limits=Limits(output=1_000_000)) as small:
        result = await run(small, "yes")
        assert len(result.stdout) == 1_000_000
        assert result.exited.cause is Cause.OUTPUT_LIMIT
        both = await run(small, "sh", "-c", "yes >&2 & head -c 999999 /dev/zero; wait")
        assert len(both.stdout) + len(both.stderr) == 1_000_000
        exact = await run(small, "head", "-c", "1000000", "/dev/zero")
        assert (exact.code, exact.exited.cause) == (0, Cause.ENDED)


@pytest.mark.slow
async def test_a_reader_who_stops_stalls_nobody(runner: Runner) -> None:
    """One stream that is never read fills its credit and leaves the others alone."""
    async with aclosing(singly(runner.execute(Command(("yes",))))) as events:
        assert isinstance(await anext(events), Started)
        assert isinstance(await anext(events), Output)
        result = await run(runner, "head", "-c", "20000000", "/dev/zero")
        assert len(result.stdout) == 20_000_000
        await write(runner, b"beside", b"x" * 1_000_000)


@pytest.mark.slow
async def test_an_unread_command_still_times_out(runner: Runner) -> None:
    """A reader who comes late finds what was written, and that time was up."""
    command = Command(("sh", "-c", "exec yes 4711.7"), timeout=0.3)
    async with aclosing(singly(runner.execute(command))) as events:
        assert isinstance(await anext(events), Started)
        async with asyncio.timeout(20):
            while alive("yes\x004711.7"):
                await run(runner, "sleep", "0.05")
        rest = [event async for event in events]
    assert isinstance(rest[-1], Exited)
    assert rest[-1].cause is Cause.TIMEOUT


@pytest.mark.slow
async def test_many_commands_at_once(runner: Runner) -> None:
    """Fifty commands at once each get their own output."""

    async def one(number: int) -> bytes:
        return (await run(runner, "sh", "-c", f"sleep 0.1; echo {number}")).stdout

    async with asyncio.timeout(60):
        told = await asyncio.gather(*map(one, range(50)))
    assert told == [b"%d\n" % number for number in range(50)]


async def test_a_pipe_is_as_new_for_the_next_command(runner: Runner) -> None:
    """A command that makes its stdout non-blocking does not do so for the next."""
    code = "import fcntl; fcntl.fcntl(1, fcntl.F_SETFL, 2048)"
    look = "import fcntl; print(fcntl.fcntl(1, fcntl.F_GETFL) & 2048)"
    for _ in range(3):
        assert (await python(runner, code)).code == 0
        assert (await python(runner, look)).stdout == b"0\n"


async def test_the_process_limit_holds() -> None:
    """Of 200 forks only as many succeed as the sandbox may have, then all end."""
    code = """
import os, time
made = 0
try:
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(4711)
        made += 1
except BlockingIOError:
    pass
print(made)
"""
    async with sandbox(limits=Limits(processes=20)) as small:
        result = await python(small, code)
        assert 5 < int(result.stdout) < 20
        assert (await run(small, "true")).code == 0


@pytest.mark.slow
async def test_a_fork_bomb_ends() -> None:
    """A fork bomb dies at its time, and the sandbox works on."""
    async with sandbox(limits=Limits(processes=60)) as small:
        bomb = "bomb() { bomb | bomb & }; bomb; sleep 4711.8"
        result = await run(small, "sh", "-c", bomb, timeout=0.5)
        assert result.exited.cause is Cause.TIMEOUT
        assert not alive("4711.8")
        assert (await run(small, "true")).code == 0


@pytest.mark.slow
async def test_memory_is_watched() -> None:
    """Neither one process nor many together keep more memory than is allowed."""
    async with sandbox(limits=Limits(memory=100 * 1024 * 1024)) as small:
        alone = await python(small, "x = bytearray(200_000_000)")
        assert b"MemoryError" in alone.stderr
        code = "\n".join(  # noqa: FLY002
            [
                "import os, time",
                "for _ in range(2): os.fork()",
                "x = b'x' * 60_000_000",
                "time.sleep(4711)",
            ]
        )
        together = await python(small, code, timeout=20)
        assert together.exited.signal == 9
        assert together.exited.cause is Cause.MEMORY_LIMIT
        assert await small.incident() == "OUT_OF_MEMORY"


async def test_other_limits_are_in_force() -> None:
    """Open files, file size, processor time and core files are limited."""
    limits = Limits(open_files=50, file_size=1000, cpu_seconds=1)
    async with sandbox(limits=limits) as small:
        code = (
            "from resource import *; print(*(getrlimit(limit) for limit in"
            " (RLIMIT_NOFILE, RLIMIT_FSIZE, RLIMIT_CPU, RLIMIT_CORE)))"
        )
        shown = await python(small, code)
        assert shown.stdout == b"(50, 50) (1000, 1000) (1, 1) (0, 0)\n"
        raised = await run(small, "sh", "-c", "ulimit -n 51")
        assert raised.code != 0


@pytest.mark.slow
async def test_a_keeper_is_replaced_in_time(runner: Runner) -> None:
    """After hundreds of commands the runner works on, and no process is left."""
    for _ in range(600):
        assert (await run(runner, "true")).code == 0
    listed = await run(runner, "sh", "-c", "ls -d /proc/[0-9]*")
    assert len(listed.stdout.splitlines()) < 8


@pytest.mark.slow
async def test_keepers_of_many_commands_serve_the_next_and_leave(
    runner: Runner,
) -> None:
    """Commands at once find the keepers of those before; after a while few are left."""

    async def keepers() -> set[bytes]:
        argv = ("sh", "-c", "echo $PPID; sleep 0.3")
        ran = await asyncio.gather(*(run(runner, *argv) for _ in range(12)))
        return {each.stdout for each in ran}

    first = await keepers()
    assert len(first) == 12
    assert len(first & await keepers()) >= 11  # one more was made ahead
    inside = psutil.Process(runner.pid)
    await until(lambda: len(inside.children(recursive=True)) < 8, seconds=30)


async def test_the_end_of_the_sandbox_ends_its_commands() -> None:
    """Closing the runner ends what runs, tells it, and refuses what comes later."""
    async with sandbox() as runner:
        async with aclosing(
            singly(runner.execute(Command(("sleep", "4711.9"))))
        ) as events:
            assert isinstance(await anext(events), Started)
            await runner.aclose()
            with pytest.raises(PicoDError, match="over"):
                await anext(events)
        assert runner.fault is None
        with pytest.raises(PicoDError, match="over"):
            await run(runner, "true")
    assert not alive("4711.9")


async def test_start_tells_its_stages(runner: Runner) -> None:
    """The parts of the start are told, and they add up."""
    stages = runner.stages
    parts = (stages.spawn, stages.isolate, stages.load, stages.greet)
    assert all(part > 0 for part in parts)
    assert stages.total == pytest.approx(sum(parts))
    assert runner.python.startswith("3.")


@pytest.fixture
def passable() -> Iterator[Path]:
    """Give a folder that the sandbox's user may pass through."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def test_level_none_works_and_cleans_up(
    caplog: pytest.LogCaptureFixture, passable: Path
) -> None:
    """Without isolation all works in the folder given, said aloud, then removed."""
    uid = 20_002 if os.geteuid() == 0 else None
    await _use_level_none(passable, uid)
    assert "no isolation" in caplog.text
    left = [path.name for path in sorted(passable.rglob("*"))]  # noqa: ASYNC240
    assert left == ["tmp", "workspace"]


async def _use_level_none(folder: Path, uid: int | None) -> None:
    async with sandbox(level="none", folder=folder, uid=uid) as runner:
        result = await run(
            runner, "sh", "-c", "pwd; echo x > a; setsid sleep 4711.10 &"
        )
        assert result.stdout.strip() == bytes(folder / "workspace")
        assert (await runner.stat(b"/workspace/a")).size == 2
        assert not alive("4711.10")
        await run(runner, "sh", "-c", "mkdir -p b/c; chmod 000 b")
