"""The same job on any server: its sandboxes, from create to the first result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks._case import At, Case
from benchmarks._servers import WORKS
from benchmarks.cases.create import AT_ONCE, first_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks._case import Measured
    from benchmarks._servers import Server, Work

__all__ = ["foreign_cases"]

_SECONDS = 10.0


def foreign_cases(server: Server, at_once: Sequence[str] = AT_ONCE) -> Iterator[Case]:
    """Yield the cases for *server*, named alike for all: two files can be compared."""
    for work in WORKS:
        for many in at_once:
            yield _case(server, work, many)


def _case(server: Server, work: Work, at_once: str) -> Case:
    async def run(at: At) -> Measured:
        return await first_result(server, work, at_once, seconds=at.seconds(_SECONDS))

    about = "Time from create to the first result."
    return Case(f"create/{work}/{at_once}", about, run, None, "standard")
