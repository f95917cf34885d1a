"""Code and contexts, through the SDK, against a Router made by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from cubemesh import (
    AsyncSandbox,
    ContextInfo,
    ContextNotFoundError,
    ExecutionError,
    ImportInfo,
    Logs,
    Result,
)
from cubemesh.v1 import picod_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cubemesh.conftest import Mesh


@pytest.fixture
async def sandbox(mesh: Mesh) -> AsyncIterator[AsyncSandbox]:
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        yield sandbox


async def test_all_that_a_call_tells(sandbox: AsyncSandbox) -> None:
    """Each event finds its place in the answer."""
    ran = await sandbox.run_code("x")
    assert (ran.text, ran.logs, ran.error) == ("42", Logs("ä", "oh"), None)
    assert (ran.context_id, ran.execution_count, ran.notice) == ("python", 3, "new")
    assert (ran.duration, ran.timed_out, ran.state_lost) == (2.0, True, True)
    assert (ran.output_omitted, ran.results_omitted) == (5, 6)
    shown, main = ran.results
    assert (shown.text, shown.png, shown.main) == ("shown", b"\x89", False)
    assert (main.html, main.json, main.main) == ("<b>", [1], True)
    assert main.cut == {"text/plain": "half"}
    missing = (main.svg, main.markdown, main.latex, main.png, main.jpeg, shown.json)
    assert missing == (None,) * 6


async def test_an_error_is_part_of_the_answer(sandbox: AsyncSandbox) -> None:
    """Code that fails does not raise here."""
    ran = await sandbox.run_code("1/0")
    assert ran.error == ExecutionError("ZeroDivisionError", "by zero")
    assert str(ran.error) == "ZeroDivisionError: by zero"
    assert str(ExecutionError("E", "v", "Traceback …")) == "Traceback …"


async def test_callbacks_hear_as_it_comes(sandbox: AsyncSandbox) -> None:
    """Text without cut characters, results as values, awaited if they must be."""
    heard: list[str | Result] = []

    async def later(text: str) -> None:
        heard.append(text)

    ran = await sandbox.run_code(
        "x", on_stdout=later, on_stderr=heard.append, on_result=heard.append
    )
    assert heard == ["ä", "oh", *ran.results]


async def test_what_is_asked(mesh: Mesh, sandbox: AsyncSandbox) -> None:
    """A context is named alone, a language without one; the timeout goes along."""
    made = await sandbox.contexts.create("bash", cwd="/w", env={"A": "b"})
    await sandbox.run_code("x", timeout=1.5)
    await sandbox.run_code("x", language="bash")
    await sandbox.run_code("x", context=made)
    await sandbox.run_code("x", context="ctx-9")
    create, timed, language, context, named = mesh.router.asked
    assert create == picod_pb2.CreateContextRequest(
        language="bash", working_directory=b"/w", environment={"A": "b"}
    )
    assert (timed.language, timed.timeout.ToMilliseconds()) == ("python", 1500)
    assert (language.language, language.context_id) == ("bash", "")
    assert (context.language, context.context_id) == ("", "ctx-1")
    assert named.context_id == "ctx-9"


async def test_contexts(mesh: Mesh, sandbox: AsyncSandbox) -> None:
    """Made, listed, restarted and deleted by value or by name."""
    made = await sandbox.contexts.create()
    assert made == ContextInfo("ctx-1", "python", "/w", 2, busy=True, waiting=1)
    assert await sandbox.contexts.list() == (made,)
    assert await sandbox.contexts.imports() == (ImportInfo("numpy", 0.25, 7, "no"),)
    assert await sandbox.contexts.restart(made) == made
    await sandbox.contexts.delete("ctx-1")
    assert [each.context_id for each in mesh.router.asked[1:]] == ["ctx-1", "ctx-1"]


async def test_a_refusal_has_its_class(sandbox: AsyncSandbox) -> None:
    """An unknown context is an error of its own kind."""
    with pytest.raises(ContextNotFoundError) as caught:
        await sandbox.run_code("x", context="none")
    assert caught.value.reason == "CONTEXT_NOT_FOUND"


async def test_cancelling_hangs_up(mesh: Mesh, sandbox: AsyncSandbox) -> None:
    """A caller who is cancelled ends the code."""
    task = asyncio.ensure_future(sandbox.run_code("hang"))
    await mesh.router.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(mesh.router.hung_up.wait(), 5)
