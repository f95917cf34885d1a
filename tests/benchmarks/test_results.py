"""A run is kept whole, read back, and shown beside its targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks import cases as all_cases
from benchmarks._case import CASES, At, Case, NotAvailableError, case, chosen
from benchmarks._cli import bench
from benchmarks._floor import beside_bare
from benchmarks._report import line, sheets, warnings
from benchmarks._results import Outcome, Results, ResultsError
from benchmarks._run import measure
from benchmarks._series import Series, latency
from benchmarks._targets import MESH, PARTS, Bound, Row

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks._case import Measured

pytestmark = pytest.mark.slow

assert all_cases


def results(**outcomes: Outcome) -> Results:
    ends = {name: latency([[1.0, 1.1]]) for name in ("before", "after")}
    machine = {"cores": 2, "others_cores": 0.0}
    return Results("2026-11-27", "quick", machine, ends, outcomes)


def one(middle: float = 10.0) -> Outcome:
    taken = latency([[middle, middle * 1.1]] * 8)
    return Outcome("Do it.", {"latency": taken}, seconds=1.5)


def hits(middle: float) -> Outcome:
    return Outcome("Do it.", {"latency, warm": latency([[middle, middle * 1.1]] * 8)})


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Figures, what was missing and what failed."""
    kept = results(
        a=one(), b=Outcome(missing="no pools"), c=Outcome(failed="OSError: no")
    )
    kept.write(tmp_path / "run.json")
    read = Results.read(tmp_path / "run.json")
    assert read.cases["a"].series["latency"].percentile(99) == pytest.approx(11, 0.001)
    assert (read.cases["b"].missing, read.cases["c"].failed) == (
        "no pools",
        "OSError: no",
    )
    assert read.machine == kept.machine


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 99}', "\x00"])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    """Another file, or another version, is told from a run."""
    (tmp_path / "x").write_text(text)
    with pytest.raises(ResultsError):
        Results.read(tmp_path / "x")


def test_compare_tells_ci_by_its_status(tmp_path: Path) -> None:
    """0: nothing got worse; 1: something did; 2: there is nothing to compare."""
    for name, middle in (("old", 10.0), ("new", 20.0)):
        results(a=one(middle)).write(tmp_path / name)
    results(b=one()).write(tmp_path / "other")
    run = CliRunner().invoke
    argvs = [("old", "old"), ("new", "old"), ("old", "new"), ("old", "other")]
    done = [
        run(bench, ["compare", *(str(tmp_path / each) for each in argv)])
        for argv in argvs
    ]
    assert [each.exit_code for each in done] == [0, 0, 1, 2]
    assert "WORSE  a: latency p50 10" in done[2].output


async def test_what_is_missing_or_fails_stops_no_other_case() -> None:
    """Each case has its own end, and all of them are told."""

    async def good(_: At) -> Measured:
        return {"x": Series("/s", "higher", [[1.0]])}

    async def absent(_: At) -> Measured:
        raise NotAvailableError("no pools")

    async def broken(_: At) -> Measured:
        raise ConnectionError("gone")

    made = [
        Case(each.__name__, "", each, None, "quick") for each in (absent, broken, good)
    ]
    told: list[str] = []
    found = await measure(
        made, depth="quick", minutes=1, tell=lambda name, _: told.append(name)
    )
    assert told == ["absent", "broken", "good"]
    assert found.cases["absent"].missing == "no pools"
    assert found.cases["broken"].failed == "ConnectionError: gone"
    assert found.cases["good"].series["x"].typical == 1
    assert found.yardstick["before"].percentile(50) > 0


async def test_no_case_begins_after_the_time() -> None:
    """A run has an end whatever the machine; what was left out is told."""

    async def never(_: At) -> Measured:
        raise AssertionError

    late = Case("late", "", never, None, "quick")
    found = await measure([late], depth="quick", minutes=0, tell=lambda *_: None)
    assert found.cases["late"].missing == "no time was left"


async def test_what_matters_most_is_measured_first() -> None:
    """Rows of the tables in their order, each in both modes, stages, then the rest."""

    async def good(_: At) -> Measured:
        return {"x": Series("/s", "higher", [[1.0]])}

    wanted = [
        "create/warm/run_code/bwrap/serial@jwt",
        "create/warm/run_code/bwrap/serial@mtls",
        "create/miss/run_code@jwt",
        "create/miss/run_code@mtls",
        "memory/held@jwt",
        "identity/gate",
        "tls/loader",
        "stages/cold/execute@jwt",
        "a rest",
    ]
    made = [Case(each, "", good, None, "quick") for each in wanted]
    found = await measure(made[::-1], depth="quick", minutes=1, tell=lambda *_: None)
    order = [name.partition("@")[0] for name in found.cases]
    assert order == [name.partition("@")[0] for name in wanted]


def test_a_usual_run_has_the_slow_levels_once() -> None:
    """What is beside the table may not take the time of its rows."""
    slow = [each.name for each in chosen("standard") if "/gvisor/" in each.name]
    assert slow == [
        f"create/{start}/run_code/gvisor/serial@jwt" for start in ("cold", "warm")
    ]


def test_a_log_has_whole_lines(tmp_path: Path) -> None:
    """Without a terminal nothing is cut into lines of 80 characters."""
    absent = Outcome(missing="only root reads the memory maps of sandboxes")
    results(**{"memory/idle@jwt": absent}).write(tmp_path / "run.json")
    said = CliRunner().invoke(bench, ["show", str(tmp_path / "run.json")]).output
    (row,) = (line for line in said.splitlines() if "an idle sandbox, PSS" in line)
    assert absent.missing in row


def test_the_yardsticks_are_told() -> None:
    """What the kernel takes stands beside the figures, and what others have."""
    kept = results()
    kept.machine["page_fault_ns"] = 5700.0
    assert "a minor page fault" in (text := shown(kept))
    assert "5,700 ns" in text
    assert "1, then 1 ms" in text


def test_what_of_a_bare_start_is_the_kernels_is_told() -> None:
    """Its page faults at the price of this machine and of usual ones."""
    counts = {"faults": 2000.0, "kernel": 20.0, "processor": 50.0}
    costs = {f"bare {k}": Series("", "beside", [[each]]) for k, each in counts.items()}
    kept = results(**{"create/cold/run_code/bwrap/serial@jwt": Outcome(series=costs)})
    kept.machine["page_fault_ns"] = 3000.0
    *_, machine = sheets(kept)
    told = [[figure.text for cell in row for figure in cell] for row in machine.rows]
    assert told[-2][1:] == ["6 ms", "0.4 to 1 ms"]
    assert told[-1][1] == "50 ms, 40 %"


def test_a_case_is_a_function_and_a_row() -> None:
    """One for each choice in braces, with what it needs and how deep it is."""

    @case("{mode}-{size}", mode=("jwt",), size=("1", "2"), depth="full")
    async def tried(at: At, *, mode: str, size: str) -> Measured:
        """Try it."""
        raise NotAvailableError(f"{at.depth} {mode} {size}")

    try:
        found = [each for each in CASES.values() if each.about == "Try it."]
        assert [each.name for each in found] == ["jwt-1", "jwt-2"]
        assert all(each.setup is not None for each in found)
        assert not set(found) & set(chosen("standard"))
        assert list(chosen("quick", ["jwt-[2]"])) == found[1:]
    finally:
        for name in ("jwt-1", "jwt-2"):
            del CASES[name]
    assert tried.__doc__ == "Try it."


@pytest.mark.parametrize("row", [*MESH, *PARTS], ids=lambda row: row.name)
def test_every_row_has_its_case(row: Row) -> None:
    """No row asks for a case that is not there, or has more figures than bounds."""
    modes = ("@jwt", "@mtls") if row in MESH else ("",)
    for mode in modes:
        assert CASES[row.case + mode].included("standard")
    assert len(row.agentcube) <= min(len(row.jwt), len(row.mtls or row.jwt))


def test_the_table_tells_value_target_and_what_is_missing() -> None:
    """A target that is met, one that is not, and one that cannot be measured yet."""
    kept = results(
        **{
            "create/warm/run_code/bwrap/serial@jwt": hits(6),
            "create/warm/run_code/bwrap/serial@mtls": hits(50),
            "code/live@jwt": Outcome(missing="there is no RunCode"),
        }
    )
    text = shown(kept)
    assert "p50 6 ms (≤ 8: ok)" in text
    assert "p50 50 ms (≤ 12: no)" in text
    assert "there is no RunCode" in text
    assert "idle sandbox" not in text


def test_a_busy_or_changing_machine_is_told() -> None:
    """Figures of a machine that others used are to be read as ratios."""
    kept = results()
    assert not list(warnings(kept))
    kept.machine |= {"others_cores": 1.5, "stolen_cores": 0.2}
    kept.yardstick["after"] = latency([[2.0]])
    busy, stolen, changed = warnings(kept)
    assert "other processes used 1.5 of 2 cores" in busy
    assert "(steal) used 0.2 of 2 cores" in stolen
    assert "1.00 ms before the run and 2.00 ms after" in changed


def test_stages_are_told_with_their_sum() -> None:
    """The columns of the table add up."""
    parts = {"code": 2.0, "Router": 3.0}
    series = {name: Series("ms", "lower", [[took]]) for name, took in parts.items()}
    outcome = Outcome(series={"total": latency([[5.0]]), **series})
    sheet, _ = sheets(results(**{"stages/cold/execute@jwt": outcome}))
    assert sheet.columns == ["stage", "cold/execute@jwt"]
    rows = [[figure.text for cell in row for figure in cell] for row in sheet.rows]
    assert rows == [["Router", "3"], ["code", "2"], ["all", "5"]]


def test_a_kept_run_is_shown_for_documents(tmp_path: Path) -> None:
    """The table of a document comes from the run, and by no hand."""
    kept = results(**{"code/live@jwt": one(1)})
    kept.write(tmp_path / "run.json")
    argv = ["show", str(tmp_path / "run.json"), "--markdown"]
    said = CliRunner().invoke(bench, argv).output
    row = "| RunCode in a live context | p50 1 ms (≤ 1.5: ok), p99 1.1 ms (≤ 5: ok) |"
    assert row in said


def test_the_least_that_can_do_it_stands_beside() -> None:
    """The bare figure of the same mode, and the share of it that we reach."""
    outcome = one(8)
    outcome.series |= beside_bare(
        "latency", outcome.series["latency"], latency([[6.0]] * 8)
    )
    sheet, _ = sheets(results(**{"code/live@jwt": outcome}))
    ((_, ours, bare, mtls, none, _),) = sheet.rows
    assert [each.text for each in bare] == ["p50 6 ms: 75 %"]
    assert [each.text for each in ours] == [
        "p50 8 ms (≤ 1.5: no)",
        "p99 8.8 ms (≤ 5: no)",
    ]
    assert ([each.text for each in mtls], none) == (["not run"], [])


def test_bounds_take_the_figure_they_name() -> None:
    """The last of all bursts, the least that were served."""
    series = Series("ms", "lower", [[1.0], [3.0], [2.0]])
    assert Bound("x", "most").of(series) == 3
    assert Bound("x", "least").of(series) == 1
    assert Bound("x", "typical").of(series) == 2
    assert not Bound("x", "most", ">=", 4).met(3)


def test_a_line_tells_what_a_case_gave() -> None:
    """While a run goes on, each case is one line."""
    assert line("a", one()) == "a: latency 10 / 11 ms [2 s]"
    assert "not available: no" in line("a", Outcome(missing="no"))
    assert "FAILED: why" in line("a", Outcome(failed="why"))


def shown(kept: Results) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        for sheet in sheets(kept):
            console.print(sheet.table())
    return captured.get()
