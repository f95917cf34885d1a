"""The demo's proof about time: identities change under load, and nobody notices."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cubemesh._demo_mesh import pause
from cubemesh._errors import CubeMeshError
from cubemesh._identity import Identity
from cubemesh._sandbox import AsyncSandbox
from cubemesh._values import CommandOutput

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from cubemesh._demo_mesh import DemoMesh

GENERATIONS = 3
OUTLIVED = 2
_CALLERS = 3
_AT_MOST = 120.0  # seconds
_PERIOD = 0.1
_TICKS = "i=0; while [ ! -e stop ]; do echo $i; i=$((i+1)); sleep 0.1; done"


@dataclass(slots=True)
class Rotation:
    """What happened while identities changed.

    ``generations`` counts those that each party used, ``stream_outlived`` the changes
    of every party that one stream has seen at least, ``gaps`` what it missed.
    """

    generations: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    failed: list[str] = field(default_factory=list)
    stream_seconds: float = 0.0
    stream_outlived: int = 0
    stream_lines: int = 0
    gaps: int = 0

    @property
    def held(self) -> bool:
        """Say whether identities changed often enough and nothing failed."""
        enough = min(self.generations.values(), default=0) >= GENERATIONS
        streamed = self.stream_outlived >= OUTLIVED and self.stream_lines > 0
        return enough and streamed and not self.failed and not self.gaps


async def rotation(mesh: DemoMesh) -> Rotation:
    """Make calls and hold one stream until every party has changed often enough."""
    seen = Rotation()
    over = asyncio.Event()
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        sandbox_id = await mesh.sandbox_of(sandbox.session_id)
        leaves = {Identity.load(mesh.profile).leaf_sha256}
        started = _generations(mesh, sandbox_id, leaves)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_listen(sandbox, seen))
            for number in range(_CALLERS):
                tasks.create_task(_call(sandbox, number, seen, over))
            await _until_changed(mesh, sandbox_id, leaves, started)
            ended = _generations(mesh, sandbox_id, leaves)
            over.set()
            await _count(seen, sandbox.files.write("stop", b""))
    seen.generations = {name: ended[name] - started[name] + 1 for name in ended}
    seen.stream_outlived = min(ended[name] - started[name] for name in ended)
    return seen


async def _until_changed(
    mesh: DemoMesh, sandbox_id: str, leaves: set[str], started: dict[str, int]
) -> None:
    until = time.monotonic() + _AT_MOST
    while time.monotonic() < until:
        await pause(_PERIOD)
        leaves.add(Identity.load(mesh.profile).leaf_sha256)
        now = _generations(mesh, sandbox_id, leaves)
        if all(now[name] - started[name] >= GENERATIONS for name in now):
            return


async def _listen(sandbox: AsyncSandbox, seen: Rotation) -> None:
    """Read numbers, one each 0.1 s, over all the changes."""
    began = time.monotonic()
    text = b""
    try:
        async for event in sandbox.commands.stream(_TICKS):
            if isinstance(event, CommandOutput):
                text += event.data
    except CubeMeshError as error:
        seen.failed.append(f"stream: {error}")
    seen.stream_seconds = round(time.monotonic() - began, 3)
    numbers = [int(line) for line in text.split()]
    seen.stream_lines = len(numbers)
    seen.gaps = sum(a != b for a, b in enumerate(numbers))


async def _call(
    sandbox: AsyncSandbox, number: int, seen: Rotation, over: asyncio.Event
) -> None:
    """Write and read back, again and again."""
    while not over.is_set():
        content = f"{number} {seen.calls}".encode()
        await _count(seen, sandbox.files.write(f"file-{number}", content))
        back = await _count(seen, sandbox.files.read(f"file-{number}"))
        if back != content:
            seen.failed.append(f"read {back!r} in place of {content!r}")


async def _count(seen: Rotation, call: Coroutine[Any, Any, Any]) -> Any:
    seen.calls += 1
    try:
        return await call
    except CubeMeshError as error:
        seen.failed.append(f"call {seen.calls}: {error}")
        return None


def _generations(mesh: DemoMesh, sandbox_id: str, leaves: set[str]) -> dict[str, int]:
    logs = {"router": "router", "workloadmanager": "workloadmanager"}
    counted = {
        name: sum(r.get("event") == "identity loaded" for r in mesh.records(log))
        for name, log in (logs | {"picod": sandbox_id}).items()
    }
    return counted | {"client": len(leaves)}
