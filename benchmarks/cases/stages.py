"""Where the time from create to the first result goes, by traces."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from benchmarks._case import MODES, At, NotAvailableError, case
from benchmarks._series import Series, latency
from benchmarks._servers import WORKS

if TYPE_CHECKING:
    from benchmarks._case import Depth, Measured
    from benchmarks._mesh import Mode

__all__: list[str] = []


def _depth(work: str, **_: str) -> Depth:
    return "quick" if work == "execute" else "standard"


@case(
    "stages/{start}/{work}@{mode}",
    depth=_depth,
    needs=lambda **_: None,
    mode=MODES,
    start=("cold", "warm"),
    work=WORKS,
)
async def stages(at: At, *, mode: Mode, start: str, work: str) -> Measured:
    """Divide the time from create to the first result by who has it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks._traced", mode, start, work),
        str(at.seconds(1.2)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode(errors="replace")[-500:])
    found: dict[str, Any] = json.loads(said)
    if "missing" in found:
        raise NotAvailableError(found["missing"])
    total = latency([found.pop("total")])
    return {"total": total} | {
        name: Series("ms", "lower", [took]) for name, took in found.items()
    }
