"""The page of the documentation holds one run, as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks._cli import bench
from benchmarks._document import PlaceError, document
from benchmarks._results import Outcome, Results
from benchmarks._series import latency

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def results(p50: float = 1.0) -> Results:
    ends = {name: latency([[0.2]]) for name in ("before", "after")}
    machine = {
        "cores": 2,
        "cpu": "a processor",
        "memory_mib": 2048,
        "kernel": "6.1",
        "python": "3.11",
        "openssl": "OpenSSL 3",
        "load_before": 0.1,
        "load_after": 1.5,
        "others_cores": 0.02,
    }
    taken = Outcome("Do it.", {"latency": latency([[p50, p50 * 1.1]] * 8)})
    return Results("2026-11-27T12", "quick", machine, ends, {"code/live@jwt": taken})


def test_the_page_tells_the_run_and_nothing_of_the_one_before(tmp_path: Path) -> None:
    """What is around the place stays; machine, table and pictures are the run's."""
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE.read_text())
    for p50 in (7, 1):
        document(results(p50), page, tmp_path / "benchmarks")
    text, own = page.read_text(), PAGE.read_text()
    assert "2 cores of a processor, 2 GiB" in text
    assert "p50 1 ms (≤ 1.5: ok)" in text
    assert "p50 7 ms" not in text
    assert "p50 16.1 ms, p99 25 ms" in text
    assert "](benchmarks/calls.svg)" in text
    assert (tmp_path / "benchmarks" / "calls.svg").exists()
    begin, end = "<!-- figures of one run -->", "<!-- end of figures -->"
    assert text.partition(begin)[0] == own.partition(begin)[0]
    assert text.partition(end)[2] == own.partition(end)[2]


def test_who_is_ahead_is_told(tmp_path: Path) -> None:
    """A figure of AgentCube's that is better than ours says so."""
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE.read_text())
    document(results(20.0), page, tmp_path / "benchmarks")
    assert "p50 16.1 ms (ahead), p99 25 ms" in page.read_text()


def test_a_page_without_a_place_stays_as_it_is(tmp_path: Path) -> None:
    """Nothing is drawn, nothing is written, and it is said."""
    page = tmp_path / "page.md"
    page.write_text("text")
    with pytest.raises(PlaceError):
        document(results(), page, tmp_path / "page")
    assert [each.name for each in tmp_path.iterdir()] == ["page.md"]
    results().write(tmp_path / "run.json")
    argv = ["document", str(tmp_path / "run.json"), "--page", str(page)]
    done = CliRunner().invoke(bench, argv)
    assert (done.exit_code, page.read_text()) == (2, "text")
