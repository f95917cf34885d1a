"""Scan every door of a mesh and print what was seen: ``make scan``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cubemesh import Sandbox
from tests.scan.scanner import Report, report, sound
from tests.spire.spire import BINARIES
from tests.system.doors import doors_of
from tests.system.mesh import up


async def seen() -> dict[str, Report]:
    """Return what is seen at each door of a mesh made for it, by its name."""
    with (
        tempfile.TemporaryDirectory() as folder,
        up(Path(folder)) as mesh,
        Sandbox.create(profile=mesh.profile) as sandbox,
    ):
        doors = doors_of(mesh, sandbox.session_id)
        return {name: await report(door) for name, door in doors.items()}


def main() -> int:
    """Print a row a finding and a column a door; 1 if one is not sound."""
    if not (BINARIES / "sslyze").is_file():
        sys.exit("error: sslyze is missing\nhint: make peers")
    reports, wanted = asyncio.run(seen()), sound("1.3")
    table = Table("", *reports)
    for title, right in wanted.items():
        cells = [each[title] for each in reports.values()]
        marked = (cell if cell == right else f"{cell} (!)" for cell in cells)
        table.add_row(title, *marked)
    Console(width=120).print(table)
    return 0 if all(each == wanted for each in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
