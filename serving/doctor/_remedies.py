"""What to do about each reason: read from the page that people read.

``refusals.md`` is a link to the page in ``docs/``; the wheel holds the page itself.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Row", "remedy", "tables"]

_LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*\)")
_REST: Final = "…"
"""Ends a reason on the page that stands for all that begin so."""


class Row(NamedTuple):
    """One line of the page."""

    reason: str
    meaning: str
    remedy: str
    source: str


def tables(page: str) -> Iterator[list[Row]]:
    """Yield the lines of each table of *page*."""
    for part in page.split("\n## ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("| `")]
        cells = [
            [each.strip() for each in line.strip("|").split("|")] for line in lines
        ]
        yield [Row(reason.strip("`"), *rest) for reason, *rest in cells]


def remedy(reason: str) -> str:
    """Return what to do about *reason*, as a hint; empty if the page has no word."""
    known = _remedies()
    if reason in known:
        return known[reason]
    starts = (each for each in known if each.endswith(_REST))
    start = next((each for each in starts if reason.startswith(each[:-1])), "")
    return known.get(start, "")


@cache
def _remedies() -> dict[str, str]:
    page = files(__package__).joinpath("refusals.md").read_text(encoding="utf-8")
    rows = (row for table in tables(page) for row in table)
    return {row.reason: _as_hint(row.remedy) for row in rows}


def _as_hint(text: str) -> str:
    plain = _LINK.sub(r"\1", text).removesuffix(".")
    return plain[:1].lower() + plain[1:]
