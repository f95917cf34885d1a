"""Runners that break the protocol or do not start: the sandbox ends, with a reason."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

import pytest

from picod import _bwrap, _spawn, _streams
from picod import _messages as messages
from picod import _protocol as wire
from picod._begin import Begun
from picod._bundle import bundle
from picod._diagnose import diagnose
from picod._errors import IsolationError, PicoDError, RunnerFaultError
from picod._greeting import greet
from picod._link import Link
from picod._runner import Command, Exited, Limits, Output, Runner, Started, Wanted
from picod._values import pack
from tests.picod.sandboxes import UID, alive, run, sandbox, singly

if TYPE_CHECKING:
    from collections.abc import Callable

HELLO = wire.frame(
    wire.HELLO,
    0,
    pack(
        {
            b"version": wire.VERSION,
            b"python": b"3.9.0",
            b"began_ns": 1,
            b"loaded_ns": 2,
            b"ready_ns": 3,
        }
    ),
)
STARTED = wire.frame(wire.STARTED, 1, pack({b"pid": 2}))
PUPPET = """
import os, sys
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit()
    return data
answer = memoryview(open(sys.argv[2], "rb").read())
_, *lengths = (read(4) for _ in range(5))
for length in lengths:
    read(int.from_bytes(length, "big"))
def frame():
    head = read(9)
    read(int.from_bytes(head[:4], "big"))
frame()
os.write(0, bytes.fromhex(sys.argv[1]))
frame()
while answer:
    answer = answer[os.write(0, answer):]
if len(sys.argv) > 3:
    sys.exit()
while True:
    frame()
"""


async def puppet(
    hello: bytes, answer: bytes, *, leave: bool = False, patience: float = 10.0
) -> Runner:
    """Start a process that greets with *hello* and answers the first request so."""
    place = _spawn.Place(b"/workspace", b"/tmp", isolated=True)
    with NamedTemporaryFile() as file:
        file.write(answer)
        file.flush()
        argv = ["python3", "-c", PUPPET, hello.hex(), file.name, *["x"] * leave]
        spawned = _spawn._spawn(argv, "/usr/bin/python3", {}, [], None, place)
        link, limits = Link(spawned, patience=patience), Limits()
        link.send(bundle())
        values = await greet(link, limits, place, {})
    stages = messages.stages(values, 0, 0)
    return Runner(Begun(link, None, stages, "3.9.0"), limits)


def out(data: bytes, kind: int = wire.STDOUT, stream: int = 1) -> bytes:
    return wire.frame(kind, stream, data)


def done(**changes: int) -> bytes:
    values = {"code": 0, "signal": 0, "cause": 0, "duration_ns": 1} | changes
    packed = pack({name.encode(): value for name, value in values.items()})
    return wire.frame(wire.DONE, 1, packed)


OVER_CREDIT = STARTED + out(b"x" * wire.MAX_PAYLOAD) * 10
MALFORMED = {
    "no type": wire.HEADER.pack(1, 77, 1),
    "ours": wire.frame(wire.REQUEST, 1, b"x"),
    "too long": wire.HEADER.pack(wire.MAX_PAYLOAD + 1, wire.STDOUT, 1),
    "empty": out(b""),
    "stream 0": out(b"x", stream=0),
    "no such stream": out(b"x", stream=2),
    "second hello": HELLO,
    "output first": out(b"x"),
    "end first": done(),
    "started twice": STARTED + STARTED,
    "a file record": STARTED + out(b"x", wire.INFO),
    "download data": STARTED + out(b"x", wire.DATA),
    "no pid": wire.frame(wire.STARTED, 1, pack({})),
    "no value": wire.frame(wire.STARTED, 1, b"d3:pid"),
    "over the credit": OVER_CREDIT,
    "too much credit": STARTED + wire.window(1, 1),
    "no credit": STARTED + wire.window(1, 0),
    "strange code": STARTED + done(code=256),
    "code and signal": STARTED + done(signal=9),
    "strange signal": STARTED + done(code=-1, signal=65),
    "strange cause": STARTED + done(cause=5),
    "negative duration": STARTED + done(duration_ns=-1),
    "end without fields": STARTED + wire.frame(wire.DONE, 1, pack({})),
    "error without fields": wire.frame(wire.ERROR, 1, pack({})),
    "after the end": STARTED + done() + out(b"x"),
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_frame_ends_the_sandbox(answer: bytes) -> None:
    """Whatever breaks the protocol ends the runner's process; the fault stays told."""
    runner = await puppet(HELLO, answer)
    try:
        async with asyncio.timeout(10):
            with suppress(RunnerFaultError):
                async with aclosing(singly(runner.execute(Command(("x",))))) as events:
                    async for _ in events:
                        if answer == OVER_CREDIT:  # who reads on gives new credit
                            await runner.wait_ended()
            await runner.wait_ended()
        assert runner.fault
        assert "protocol" in runner.fault
        with pytest.raises(RunnerFaultError):
            await run(runner, "true")
    finally:
        await runner.aclose()


async def test_what_the_runner_tells_at_once_is_one_batch() -> None:
    """Events that come together stay together, in their order."""
    runner = await puppet(HELLO, STARTED + out(b"said") + done())
    batches = [batch async for batch in runner.execute(Command(("x",)))]
    assert [[type(each) for each in batch] for batch in batches] == [
        [Started, Output, Exited]
    ]
    await runner.aclose()


async def test_an_end_in_mid_stream_is_a_fault() -> None:
    """A runner that goes away fails what runs and what comes; output stays readable."""
    runner = await puppet(HELLO, STARTED + out(b"said"), leave=True)
    got = []
    with pytest.raises(RunnerFaultError):  # noqa: PT012
        async for event in singly(runner.execute(Command(("x",)))):
            got += [event]
    assert [type(event) for event in got] == [Started, Output]
    await runner.wait_ended()
    assert runner.fault == "the runner ended"
    await runner.aclose()


@pytest.mark.parametrize(
    "hello",
    [
        wire.frame(wire.HELLO, 0, b"garbage"),
        wire.frame(wire.HELLO, 0, pack({b"version": 2})),
        STARTED,
        b"\xff" * 100,
    ],
)
async def test_a_strange_greeting_is_no_start(hello: bytes) -> None:
    """A runner that greets wrongly does not start, and its process is gone."""
    with pytest.raises(IsolationError):
        await puppet(hello, b"")


async def test_a_killed_sandbox_is_a_fault() -> None:
    """When bwrap is killed all inside dies, and those who wait are told."""
    async with sandbox() as runner:
        async with aclosing(
            singly(runner.execute(Command(("sleep", "4712.1"))))
        ) as events:
            assert isinstance(await anext(events), Started)
            os.kill(runner.pid, signal.SIGKILL)
            with pytest.raises(RunnerFaultError):
                await anext(events)
        await runner.wait_ended()
        assert runner.fault
        async with asyncio.timeout(10):
            while alive("4712.1"):
                await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0)


async def test_a_silent_runner_is_given_up() -> None:
    """A runner that lets a command's time pass is called a fault."""
    runner = await puppet(HELLO, STARTED, patience=0.1)
    with pytest.raises(RunnerFaultError):
        await run(runner, "x", timeout=0.1)
    await runner.wait_ended()
    assert runner.fault == "the runner does not answer"


STARTER = """
import asyncio, sys
from tests.picod.sandboxes import run, sandbox
async def main():
    async with sandbox() as runner:
        print(runner.pid, flush=True)
        await run(runner, "sh", "-c", "setsid sleep 4712.2 & sleep 4712.2")
asyncio.run(main())
"""


@pytest.mark.slow
def test_nothing_survives_a_killed_service() -> None:
    """When the process that holds a sandbox is killed, all in the sandbox dies."""
    argv = [sys.executable, "-c", STARTER]
    tree = Path(__file__).resolve().parents[2]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=tree) as service:
        assert service.stdout
        assert int(service.stdout.readline())
        _until(lambda: len(alive("4712.2")) >= 3)
        service.kill()
    _until(lambda: not alive("4712.2"))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_new_error_of_the_runner_is_internal() -> None:
    """A reason that nobody knows becomes the base error, without its text."""
    error = _streams._error(pack({b"reason": b"NEW", b"detail": b"secret"}))
    assert type(error) is PicoDError
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("said", "settings", "hint"),
    [
        ("", {"user/max_user_namespaces": "0"}, "user.max_user_namespaces"),
        (
            "bwrap: No permissions to create new namespace",
            {"kernel/unprivileged_userns_clone": "0"},
            "unprivileged_userns_clone=1",
        ),
        (
            "bwrap: setting up uid map: Permission denied",
            {"kernel/apparmor_restrict_unprivileged_userns": "1"},
            "AppArmor",
        ),
        (
            "bwrap: Creating new namespace failed: Operation not permitted",
            {},
            "seccomp",
        ),
        (
            "bwrap: Creating new namespace failed: No space left on device",
            {},
            "user.max_user_namespaces",
        ),
        ("bwrap: Unknown option --disable-userns", {}, "0.8"),
        ("bwrap: execvp /x: No such file or directory", {}, "--python"),
        ("something else", {}, "doctor"),
    ],
)
def test_a_start_that_failed_is_explained(
    said: str, settings: dict[str, str], hint: str
) -> None:
    """What bwrap said and the kernel's settings give a remedy to type."""
    error = diagnose(said, settings)
    assert hint in error.hint
    assert error.reason == "SANDBOX_START_FAILED"


async def test_an_unusable_interpreter_is_explained() -> None:
    """An interpreter that is not there fails the start with a hint, quickly."""
    with pytest.raises(IsolationError) as caught:
        await Runner.start("x", Wanted(uid=UID, python="/usr/bin/no-python"))
    assert "--python" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="drops from root")
@pytest.mark.parametrize("level", ["bwrap", "none"])
@pytest.mark.parametrize("uid", [0, None])
async def test_code_never_runs_as_the_hosts_root(
    level: str, uid: int | None, tmp_path: os.PathLike[str]
) -> None:
    """Root must name another user for the sandbox, at every level."""
    wanted = Wanted(level=level, uid=uid, folder=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(IsolationError, match="root"):
        await Runner.start("x", wanted)


WITHOUT_NAMESPACES = """
import asyncio
from picod._errors import IsolationError
from picod._runner import Runner, Wanted
try:
    asyncio.run(Runner.start("x", Wanted()))
except IsolationError as error:
    print(error, error.hint, sep="\\n")
"""


@pytest.mark.slow
def test_no_user_namespaces_is_explained() -> None:
    """Where user namespaces are switched off, the error says what to do about it."""
    bwrap = _bwrap.find_bwrap()
    fence = ("--dev-bind", "/", "/", "--unshare-user", "--disable-userns")
    who = ("--uid", "20001", "--gid", "20001", "--")
    done = subprocess.run(
        [bwrap.program, *fence, *who, sys.executable, "-c", WITHOUT_NAMESPACES],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "could not be isolated" in done.stdout
    assert "sysctl -w user.max_user_namespaces" in done.stdout
