"""The page of scenarios names each of them, and tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "identity-scenarios.md"
_ROW = re.compile(r"\| (\d+) \|")
_TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows() -> dict[int, str]:
    """Return the lines of the table by their numbers."""
    lines = PAGE.read_text().splitlines()
    return {int(found[1]): line for line in lines if (found := _ROW.match(line))}


def test_every_scenario_has_its_test() -> None:
    """None of the 44 is left out."""
    assert list(rows()) == list(range(1, 45))
    for number, line in rows().items():
        assert _TEST.search(line), number


def test_no_test_is_named_that_is_gone() -> None:
    """Each is in this folder, or in that of the real SPIRE."""
    tests = Path(__file__).parents[1]
    for module, test in _TEST.findall(PAGE.read_text()):
        files = (tests / room / module for room in ("tlsloader", "spire"))
        (text,) = (each.read_text() for each in files if each.is_file())
        assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), test
