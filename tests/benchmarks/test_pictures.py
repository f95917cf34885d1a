"""Pictures are drawn from a run, and the same run gives the same picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks._pictures import draw
from benchmarks._results import Outcome, Results
from benchmarks._series import Series, latency

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def run() -> Results:
    taken = latency([[1.0, 2.0, 5.0]])
    parts = {"code": Series("ms", "lower", [[3.0]]), "total": latency([[3.0]])}
    cases = {
        "create/cold/execute/bwrap/serial@jwt": Outcome(series={"latency": taken}),
        "create/warm/execute/bwrap/serial@jwt": Outcome(missing="no pools"),
        "create/warm/run_code/bwrap/100@mtls": Outcome(series={"latency": taken}),
        "stages/cold/execute@jwt": Outcome(series=parts),
    }
    return Results("", "quick", {}, {}, cases)


def test_draws_what_there_is(tmp_path: Path) -> None:
    """As PNG and SVG; for what was not measured there is no picture."""
    drawn = draw(run(), tmp_path)
    assert sorted(each.name for each in drawn) == [
        "bursts.png",
        "bursts.svg",
        "execute.png",
        "execute.svg",
        "stages.png",
        "stages.svg",
    ]
    assert b"cold/execute/bwrap" in (tmp_path / "execute.svg").read_bytes()
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_figures_give_the_same_bytes(tmp_path: Path) -> None:
    """A picture in the repository changes only when its figures do."""
    first, second = draw(run(), tmp_path / "1"), draw(run(), tmp_path / "2")
    assert [each.read_bytes() for each in first] == [e.read_bytes() for e in second]
