"""One trace goes from the SDK to the code in the sandbox."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace

from benchmarks._collector import Collector, Span, collector, provider
from cubemesh import AsyncSandbox, Profile
from tests.system.mesh import up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.system.mesh import Up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CREATE = [
    ("client", "cubemesh.v1.Sessions/CreateSession"),
    ("router", "cubemesh.v1.Sessions/CreateSession"),
    ("router", "cubemesh.v1.WorkloadManager/CreateSession"),
    ("workloadmanager", "cubemesh.v1.WorkloadManager/CreateSession"),
]
CHANNEL = ("router", "router.channel")
EXECUTE = [
    ("client", "cubemesh.v1.PicoD/Execute"),
    ("router", "cubemesh.v1.PicoD/Execute"),
    ("router", "cubemesh.v1.PicoD/Execute"),
    ("picod", "cubemesh.v1.PicoD/Execute"),
]


def way_to(name: str, spans: list[Span]) -> list[tuple[str, str]]:
    """Return (service, span) from the top down to the span *name*."""
    known = {each.id: each for each in spans}
    found = next(each for each in spans if each.name == name)
    way = []
    while found.parent in known:
        found = known[found.parent]
        way.append((found.service, found.name))
    return way[::-1]


@asynccontextmanager
async def up_beside(folder: Path, *flags: str, **environ: str) -> AsyncIterator[Up]:
    """Run a mesh, and leave the event loop to the collector meanwhile."""
    mesh = up(folder, *flags, **environ)
    try:
        yield await asyncio.to_thread(mesh.__enter__)
    finally:
        await asyncio.to_thread(mesh.__exit__, None, None, None)


async def use(profile: Profile, told: Collector, start: str) -> str:
    """Make and use sandboxes until one has that *start*; return its trace."""
    found = ""
    while found != start:
        with trace.get_tracer("test").start_as_current_span("all") as root:
            async with await AsyncSandbox.create(profile=profile) as sandbox:
                await sandbox.commands.run(["true"])
                found = (await sandbox.info()).start
    wanted = f"{root.get_span_context().trace_id:032x}"
    await told.until(
        lambda spans: ("picod.code", wanted) in {(s.name, s.trace) for s in spans}
    )
    return wanted


@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize("mode", ["mtls", "jwt"])
async def test_a_trace_goes_from_the_sdk_to_the_code(
    mode: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every service on the way tells its part, each below who asked it."""
    most = {"CUBEMESH_WORKLOADMANAGER_WARM_MAX_READY": "0" if start == "cold" else "4"}
    async with collector() as told:
        made = provider(told)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: made)
        flags = ("--picod-auth-mode", mode, "--otlp-endpoint", told.endpoint)
        async with up_beside(tmp_path, *flags, **most) as mesh:
            wanted = await use(Profile.load(mesh.profile), told, start)
    spans = [each for each in told.spans if each.trace == wanted]
    how = "engine.start" if start == "cold" else "engine.bind"
    assert way_to(how, spans) == [("client", "all"), *CREATE]
    if (mode, start) == ("mtls", "cold"):  # a warm one has been dialled ahead
        assert way_to("router.handshake", spans)[1:] == [*EXECUTE[:2], CHANNEL]
    for part in ("picod.runner", "picod.code"):
        assert way_to(part, spans) == [("client", "all"), *EXECUTE]
