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
    """None of the 44 is left out, and no test is named that is gone."""
    assert list(rows()) == list(range(1, 45))
    for number, line in rows().items():
        named = _TEST.findall(line)
        assert named, number
        for module, test in named:
            text = (Path(__file__).parent / module).read_text()
            assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), test
