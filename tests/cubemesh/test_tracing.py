"""In an application that traces, each call to the mesh is a span of its trace."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace

from benchmarks._collector import Collector, provider
from cubemesh import AsyncSandbox, NotFoundError, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cubemesh.conftest import Mesh

SESSIONS, PICOD = "cubemesh.v1.Sessions", "cubemesh.v1.PicoD"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Collector:
    """Have OpenTelemetry set up as an application does, for one test."""
    collector = Collector("")
    made = provider(collector)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made)
    return collector


@contextmanager
def application() -> Iterator[str]:
    """Be in a span of the application; yield its id."""
    with trace.get_tracer("application").start_as_current_span("work") as span:
        yield trace.format_span_id(span.get_span_context().span_id)


def parent_seen(metadata: dict[str, Any]) -> str:
    """Return which span the mesh was told to be a part of."""
    return str(metadata["traceparent"]).split("-")[2]


async def test_each_call_is_a_span_of_the_application(
    told: Collector, mesh: Mesh
) -> None:
    """Unary calls, streams and uploads; and the mesh is told which span asks."""
    with application() as work:
        async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
            await sandbox.commands.run(["say"])
            await sandbox.files.write("a", b"1")
            await sandbox.files.read("a")
    spans = [each for each in told.spans if each.name != "work"]
    assert [each.name for each in spans] == [
        f"{SESSIONS}/CreateSession",
        f"{PICOD}/Execute",
        f"{PICOD}/WriteFile",
        f"{PICOD}/ReadFile",
        f"{SESSIONS}/DeleteSession",
    ]
    assert {each.parent for each in spans} == {work}
    assert {each.attributes["rpc.response.status_code"] for each in spans} == {"OK"}
    seen = [parent_seen(each) for each in mesh.router.metadata]
    assert seen == [each.id for each in spans]


async def test_a_failed_call_is_told_as_one(told: Collector, mesh: Mesh) -> None:
    """The code of the status is told; the text, which may name files, is not."""
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        with pytest.raises(NotFoundError):
            await sandbox.files.read("missing-file")
    (failed,) = [e for e in told.spans if e.attributes.get("error.type")]
    assert failed.attributes["error.type"] == "NOT_FOUND"
    assert "missing-file" not in str(failed.attributes)


async def test_a_stream_given_up_has_an_end(told: Collector, mesh: Mesh) -> None:
    """A caller who hangs up leaves no span open."""
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        running = asyncio.ensure_future(sandbox.commands.run("hang"))
        await mesh.router.started.wait()
        running.cancel()
        await asyncio.wait([running])
        await mesh.router.hung_up.wait()
    (given_up,) = [each for each in told.spans if each.name == f"{PICOD}/Execute"]
    assert given_up.attributes["rpc.response.status_code"] == "CANCELLED"


def test_the_blocking_face_is_in_the_trace(
    told: Collector, blocking_mesh: Mesh
) -> None:
    """Its calls run in another thread, and still are parts of the caller's span."""
    with application() as work, Sandbox.create(profile=blocking_mesh.profile):
        pass
    assert {e.parent for e in told.spans if e.name != "work"} == {work}
