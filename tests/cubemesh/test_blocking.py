from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from cubemesh import (
    AsyncCommands,
    AsyncContexts,
    AsyncFiles,
    AsyncSandbox,
    CommandExited,
    CommandOutput,
    Commands,
    Contexts,
    Files,
    Sandbox,
)

if TYPE_CHECKING:
    from tests.cubemesh.conftest import Mesh


def _public(of: type) -> dict[str, Any]:
    return {name: getattr(of, name) for name in dir(of) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("face", "twin"),
    [
        (Commands, AsyncCommands),
        (Contexts, AsyncContexts),
        (Files, AsyncFiles),
        (Sandbox, AsyncSandbox),
    ],
)
def test_the_face_has_all_that_its_twin_has(face: type, twin: type) -> None:
    """Nobody can add a method to one and forget the other; texts and arguments too."""
    parts = {"commands", "contexts", "files"} if face is Sandbox else set()
    assert set(_public(face)) == set(_public(twin)) | parts
    for name, method in _public(twin).items():
        mine = getattr(face, name)
        assert inspect.getdoc(mine) == inspect.getdoc(method)
        if callable(method):
            theirs = inspect.signature(method).parameters
            assert list(inspect.signature(mine).parameters) == list(theirs)


def test_a_block_of_plain_code(blocking_mesh: Mesh) -> None:
    """The face does what its twin does, and cleans up as it does."""
    with Sandbox.create(profile=blocking_mesh.profile) as sandbox:
        assert isinstance(sandbox, Sandbox)
        assert sandbox.commands.run(["say"]).stdout == "say"
        sandbox.files.write("data.csv", b"a,b\n1,2\n")
        assert sandbox.files.read_text("data.csv") == "a,b\n1,2\n"
        assert b"".join(sandbox.files.stream("data.csv")) == b"a,b\n1,2\n"
        assert [i.session_id for i in Sandbox.list(profile=blocking_mesh.profile)] == [
            sandbox.session_id
        ]
        assert Sandbox.get(sandbox.session_id, profile=blocking_mesh.profile)
        with Sandbox.connect(sandbox.session_id, profile=blocking_mesh.profile) as two:
            assert two.info().state == "ready"
    assert blocking_mesh.router.sessions == {}


def test_code_in_plain_code(blocking_mesh: Mesh) -> None:
    """Code and contexts block as commands do; callbacks run in the caller's thread."""
    threads = set()
    with Sandbox.create(profile=blocking_mesh.profile) as sandbox:

        def hear(_: object) -> None:
            threads.add(threading.current_thread())
            assert sandbox.contexts.list()

        ran = sandbox.run_code("x", on_stdout=hear, on_result=hear)
        assert ran.text == "42"
        context = sandbox.contexts.create("bash")
        sandbox.contexts.delete(sandbox.contexts.restart(context))
    assert threads == {threading.current_thread()}


def test_a_stream_left_early_hangs_up(blocking_mesh: Mesh) -> None:
    """`break` is enough to end the command."""
    with Sandbox.create(profile=blocking_mesh.profile) as sandbox:
        events = sandbox.commands.stream("hang")
        for event in events:
            assert not isinstance(event, CommandExited)
            if isinstance(event, CommandOutput):
                break
        events.close()
        _eventually(blocking_mesh.router.hung_up.is_set)


def test_callbacks_run_where_they_were_written(blocking_mesh: Mesh) -> None:
    """A callback runs in the caller's thread and may use the sandbox itself."""
    heard: list[tuple[str, bool]] = []

    with Sandbox.create(profile=blocking_mesh.profile) as sandbox:

        def hear(text: str) -> None:
            mine = threading.current_thread() is threading.main_thread()
            heard.append((text, mine))
            sandbox.files.write("heard", text)

        sandbox.commands.run(["say"], on_stdout=hear)
        assert heard == [("say", True)]
        assert sandbox.files.read("heard") == b"say"


def test_a_callback_that_fails_ends_the_command(blocking_mesh: Mesh) -> None:
    """Its error arrives as it is, and nothing goes on running."""

    def fail(text: str) -> None:
        raise LookupError(text)

    with Sandbox.create(profile=blocking_mesh.profile) as sandbox:
        with pytest.raises(LookupError, match="first"):
            sandbox.commands.run("hang", on_stdout=fail)
        _eventually(blocking_mesh.router.hung_up.is_set)


def test_ctrl_c_ends_the_command_and_the_sandbox(blocking_mesh: Mesh) -> None:
    """Ctrl-C reaches a caller that waits, and leaves nothing behind."""

    def interrupt(_: str) -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    def use() -> None:
        with Sandbox.create(profile=blocking_mesh.profile) as sandbox:
            sandbox.commands.run("hang", on_stdout=interrupt)

    with pytest.raises(KeyboardInterrupt):
        use()
    _eventually(blocking_mesh.router.hung_up.is_set)
    assert blocking_mesh.router.sessions == {}


async def test_works_inside_a_running_loop(mesh: Mesh) -> None:
    """A notebook's cell, which runs inside a loop, may block as well."""

    def use() -> str:
        with Sandbox.create(profile=mesh.profile) as sandbox:
            return sandbox.commands.run(["say"]).stdout

    assert await asyncio.to_thread(use) == "say"


def test_waiting_for_itself_is_refused(blocking_mesh: Mesh) -> None:
    """Blocking the loop that does the work is an error, not a standstill."""
    from cubemesh._portal import portal  # noqa: PLC0415 - not public

    async def use() -> None:
        Sandbox.list(profile=blocking_mesh.profile)

    with pytest.raises(RuntimeError, match="AsyncSandbox"):
        portal().run(use())


def _eventually(condition: Any) -> None:
    """Wait for what another thread does within five seconds."""
    waiting = threading.Event()
    for _ in range(500):
        if condition():
            return
        waiting.wait(0.01)
    pytest.fail("it never happened")
