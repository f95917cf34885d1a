"""What a mesh is to be like for a case: the level, the pool, the workers."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import click

from benchmarks._mesh import Mesh, mesh
from cubemesh import AsyncSandbox, MeshError, SessionInfo
from cubemesh._cli_up import up_command
from cubemesh._machine import look

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks._mesh import Mode

__all__ = ["LEVELS", "MODES", "TEMPLATE", "NotAvailableError", "Setup", "running"]

MODES: Final[tuple[Mode, ...]] = ("jwt", "mtls")
LEVELS: Final = ("bwrap", "gvisor", "none")
TEMPLATE: Final = "bench"
_MOST: Final = "2000"  # sandboxes at a time


class NotAvailableError(Exception):
    """What is to be measured is not there; the text says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a mesh is to be like; *pool* sandboxes of its template are made ahead.

    *otlp*: where it sends its traces.
    """

    mode: Mode
    level: str = "bwrap"
    pool: int = 0
    workers: int = 1
    otlp: str = ""

    def flags(self) -> list[str]:
        """Return what `cubemesh up` is told."""
        flags = ["--isolation", self.level]
        flags += ["--workers", str(self.workers)] if self.workers > 1 else []
        flags += ["--otlp-endpoint", self.otlp] if self.otlp else []
        return flags

    def write(self, folder: Path) -> str:
        """Write the file of templates into *folder*; return its path."""
        template: dict[str, object] = {"isolation": self.level}
        if _has_pools():
            template |= {"min_ready": self.pool, "max_ready": self.pool}
        file = folder / "templates.yaml"
        file.write_text(json.dumps({"templates": {TEMPLATE: template}}))
        return str(file)

    def require(self) -> None:
        """Go on only with what this version and this machine have.

        Raises:
            NotAvailableError: they do not have it.
        """
        if self.level not in _offered("isolation"):
            raise NotAvailableError(f"there is no isolation level {self.level}")
        for check in look(self.level):
            if not check.ok:
                raise NotAvailableError(f"{check.name}: {check.detail}")
        if self.pool and not _has_pools():
            raise NotAvailableError("there are no warm pools")
        if self.workers > 1 and not _offered("workers"):
            raise NotAvailableError("there is no --workers")


@asynccontextmanager
async def running(setup: Setup) -> AsyncIterator[Mesh]:
    """Run a mesh of *setup* in which a first sandbox has been made and used.

    Raises:
        NotAvailableError: there cannot be one like this.
    """
    setup.require()
    with TemporaryDirectory(prefix="cubemesh-bench-") as folder:
        environ = {
            "CUBEMESH_WORKLOADMANAGER_TEMPLATES": setup.write(Path(folder)),
            "CUBEMESH_WORKLOADMANAGER_MAX_SESSIONS": _MOST,
            "CUBEMESH_WORKLOADMANAGER_WARM_MIN_READY": "0",  # of templates beside ours
            "CUBEMESH_WORKLOADMANAGER_WARM_MAX_READY": "0",
        }
        async with mesh(setup.mode, *setup.flags(), **environ) as made:
            await _try_out(made, setup)
            yield made


async def _try_out(made: Mesh, setup: Setup) -> None:
    """Make and use one sandbox: whatever is loaded at first use is loaded now."""
    created = AsyncSandbox.create(profile=made.profile, template=TEMPLATE)
    try:
        async with await created as sandbox:
            await sandbox.commands.run(["true"], check=True)
    except MeshError as error:
        what = f"no sandbox of level {setup.level}: {error}"
        raise NotAvailableError(what) from error


def _has_pools() -> bool:
    return "start" in {field.name for field in fields(SessionInfo)}


def _offered(option: str) -> tuple[str, ...]:
    """Return what `cubemesh up` offers for *option*; nothing: there is none."""
    for each in up_command.params:
        if each.name == option:
            kind = each.type
            return tuple(kind.choices) if isinstance(kind, click.Choice) else (option,)
    return ()
