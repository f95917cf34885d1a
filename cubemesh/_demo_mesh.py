"""A whole mesh for the demo, and what its services log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubemesh._profile import Profile
from cubemesh._service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

Record = dict[str, Any]
_END = 90.0  # seconds that a mesh may take to end
_APPEARS = 10.0  # seconds until a line must stand in a log
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class DemoMesh:
    """One `cubemesh up` of our own, in a folder of its own."""

    profile: Profile
    state: Path
    runtime: Path

    def sandbox_folder(self, sandbox_id: str) -> Path:
        """Return where the sockets of a sandbox are."""
        return self.runtime / sandbox_id

    async def sandbox_of(self, session_id: str) -> str:
        """Return the id of a session's sandbox; others wait beside it for theirs.

        Raises:
            LookupError: the WorkloadManager has not made the session.
        """
        found = await self.find(
            "workloadmanager", "session ready", session_id=session_id
        )
        if found is None:
            raise LookupError(session_id)
        return str(found["sandbox_id"])

    def records(self, service: str) -> Iterator[Record]:
        """Yield what *service* (or a sandbox's PicoD) has logged so far."""
        path = self.state / "logs" / f"{service}.log"
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record

    async def find(self, service: str, event: str, **fields: str) -> Record | None:
        """Return the last such record; waits until there is one, but not forever."""
        for _ in range(int(_APPEARS / _POLL)):
            for record in reversed(list(self.records(service))):
                if record.get("event") == event and fields.items() <= record.items():
                    return record
            await pause(_POLL)
        return None


@asynccontextmanager
async def demo_mesh(
    folder: Path, environ: Mapping[str, str], *options: str
) -> AsyncIterator[DemoMesh]:
    """Start `cubemesh up` with *options*; end it, and see that nothing is left.

    Raises:
        ServiceError: it does not start.
        LeftBehindError: it left a file or a socket.

    """
    os.mkdir(folder, 0o700)  # noqa: PTH102 - before anything runs
    profile = folder / "profile.json"
    argv = [
        *(sys.executable, "-I", "-m", "cubemesh", "up", "--json"),
        *("--state", str(folder / "state"), "--profile", str(profile), *options),
    ]
    service = Service("up", lambda: argv, folder / "up.log", environ)
    try:
        said = await service.start()
        yield DemoMesh(
            Profile.load(profile), Path(said["state"]), Path(said["runtime"])
        )
        await service.stop(signal.SIGINT, _END)
        left = [path for path in (profile, Path(said["runtime"])) if path.exists()]
        if left or service.status:
            raise LeftBehindError(service.status, left)
    finally:
        await service.stop(signal.SIGINT, _END)


class LeftBehindError(Exception):
    """A mesh did not end as it should."""

    def __init__(self, status: int | None, left: list[Path]) -> None:
        names = ", ".join(str(path) for path in left) or "nothing"
        super().__init__(f"the mesh ended with status {status} and left {names}")


async def pause(seconds: float) -> None:
    """Let *seconds* pass."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()
