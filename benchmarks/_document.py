"""The page that holds the figures of one run, and its pictures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from benchmarks._pictures import draw
from benchmarks._report import sheets, warnings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks._results import Results

__all__ = ["PlaceError", "document"]

_PLACE: Final = re.compile(
    r"(<!-- figures of one run -->\n).*?(<!-- end of figures -->\n)", re.DOTALL
)
_PICTURES: Final = {
    "create": "How long from create to the first result of RunCode",
    "bursts": "The same, with 8, 32 and 100 creates at once",
    "stages": "Where the time from create to the first result goes",
    "calls": "How long calls take, as shares of samples",
}


class PlaceError(Exception):
    """The page has no place for figures."""


def document(results: Results, page: Path, pictures: Path) -> None:
    """Put *results* between the two comments in *page*, and draw into *pictures*.

    Raises:
        PlaceError: the comments are not there.
    """
    text = page.read_text(encoding="utf-8")
    if _PLACE.search(text) is None:
        raise PlaceError(f"{page} has no place for figures")
    drawn = {each.stem for each in draw(results, pictures) if each.suffix == ".svg"}
    folder = pictures.relative_to(page.parent)
    parts = [*_told(results)]
    parts += [
        f"![{about}]({folder}/{name}.svg)\n"
        for name, about in _PICTURES.items()
        if name in drawn
    ]
    made = "\n".join(parts)
    page.write_text(
        _PLACE.sub(lambda place: f"{place[1]}\n{made}\n{place[2]}", text),
        encoding="utf-8",
    )


def _told(results: Results) -> Iterator[str]:
    """Yield what the figures were taken on, what speaks against them, and they."""
    machine = results.machine
    memory = machine["memory_mib"] / 1024
    yield (
        f"Run of {results.at:.10}, {results.depth}: {machine['cores']} cores of "
        f"{machine['cpu']}, {memory:.0f} GiB, Linux {machine['kernel']}, Python "
        f"{machine['python']}, {machine['openssl']}. Load before "
        f"{machine['load_before']:g}, after {machine['load_after']:g}; other processes "
        f"used {machine['others_cores']:g} cores meanwhile, and others on the same "
        f"host {machine.get('stolen_cores', 0.0):g} (steal).\n"
    )
    for warning in warnings(results):
        yield f"**Mind**: {warning}.\n"
    for sheet in sheets(results):
        yield sheet.markdown()
