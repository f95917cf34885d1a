"""A run as tables: figures beside targets, and what of it is to be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from rich.table import Table
from rich.text import Text

from benchmarks._setup import MODES
from benchmarks._stages import STAGES, middle
from benchmarks._targets import MESH, PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks._results import Outcome, Results
    from benchmarks._targets import Bound, Cell, Row

__all__ = ["Sheet", "line", "sheets", "warnings"]

_QUIET: Final = 0.1  # cores that others may use: then absolute figures mean something
_ENDS: Final = ("before", "after")
_TAKERS: Final = {
    "others_cores": "other processes",
    "stolen_cores": "others on the same host (steal)",
}
_MOVED: Final = 1.1  # by how much the yardstick may differ within a run
_FAULT: Final = (200, 500)  # ns: what a minor page fault takes on usual machines
_YARDSTICKS: Final = (  # of the machine: name, unit, what usual ones have
    ("page_fault_ns", "a minor page fault", "ns", "{:g} to {:g} ns".format(*_FAULT)),
    ("fork_ms", "a fork of a small Python, and its end", "ms", "0.4 ms"),
    ("ping_pong_us", "there and back on a socketpair", "us", "6 to 10 us"),
)
_BARE_START: Final = "create/cold/run_code/bwrap/serial@jwt"
_BARE: Final = "bare: share"
_COLUMNS: Final = [
    "figure",
    *(column for mode in MODES for column in (mode, _BARE)),
    "AgentCube's Go",
]
_COLOURS: Final = {True: "green", False: "red", None: ""}


class Figure(NamedTuple):
    """One figure as it is shown; *met*: whether it keeps its target, if it has one."""

    text: str
    met: bool | None = None


class Sheet(NamedTuple):
    """A table: its title, its columns, and rows of cells of figures."""

    title: str
    columns: list[str]
    rows: list[list[list[Figure]]]

    def table(self) -> Table:
        """Return it for a terminal."""
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            cells = ([Text(f.text, _COLOURS[f.met]) for f in cell] for cell in row)
            table.add_row(*(Text("\n").join(cell) for cell in cells))
        return table

    def markdown(self) -> str:
        """Return it for a document."""
        lines = [self.columns, ["---"] * len(self.columns)]
        lines += [
            [", ".join(f.text for f in cell) for cell in row] for row in self.rows
        ]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"**{self.title}**\n\n{body}\n"


def sheets(results: Results) -> Iterator[Sheet]:
    """Yield what there is: by mode, of parts without a mesh, by stage; the machine."""
    mesh = [
        _row(row, [[*row.cells(results, mode)] for mode in MODES])
        for row in MESH
        if any(f"{row.case}@{mode}" in results.cases for mode in MODES)
    ]
    parts = [
        [[Figure(row.name)], _cell([*row.cells(results)])]
        for row in PARTS
        if row.case in results.cases
    ]
    for sheet in (
        Sheet("The mesh", _COLUMNS, mesh),
        Sheet("Its parts", ["figure", "measured"], parts),
        _stages(results),
        _machine(results),
    ):
        if sheet.rows:
            yield sheet


def _row(row: Row, modes: Sequence[Sequence[Cell]]) -> list[list[Figure]]:
    """Return the name of *row*, ours and the bare ones by mode, and AgentCube's."""
    theirs = [
        _theirs(value, [cells[number] for cells in modes])
        for number, value in enumerate(row.agentcube)
    ]
    note = [Figure(f"({row.note})")] if row.note else []
    figures = (part for cells in modes for part in (_cell(cells), _bare(cells)))
    return [[Figure(row.name)], *figures, [*theirs, *note]]


def _theirs(value: float, ours: Sequence[Cell]) -> Figure:
    """Return AgentCube's figure; told, if it is ahead of *ours* in a mode."""
    bound, unit = ours[0].bound, next((each.unit for each in ours if each.unit), "")
    found = [each.value for each in ours if each.value is not None]
    less = bound.relation == "<="
    ahead = any(value < each if less else value > each for each in found)
    return Figure(f"{_text(bound, value, unit)}{' (ahead)' if ahead else ''}")


def _cell(cells: Sequence[Cell]) -> list[Figure]:
    if all(each.value is None for each in cells):
        return [Figure(cells[0].why)]
    return [_figure(each) for each in cells if each.value is not None]


def _bare(cells: Sequence[Cell]) -> list[Figure]:
    return [
        Figure(f"{_text(each.bound, each.bare, each.unit)}: {_number(each.share)} %")
        for each in cells
        if each.bare is not None and each.share is not None
    ]


def _text(bound: Bound, value: float, unit: str) -> str:
    stat = f"{bound.stat} " if bound.stat in {"p50", "p99"} else ""
    return f"{stat}{_number(value)} {unit}".rstrip()


def _figure(cell: Cell) -> Figure:
    assert cell.value is not None  # noqa: S101 - the caller looked
    bound = cell.bound
    text = _text(bound, cell.value, cell.unit)
    if bound.limit is None:
        return Figure(text)
    met = bound.met(cell.value)
    sign = {"<=": "≤", ">=": "≥"}[bound.relation]
    return Figure(f"{text} ({sign} {bound.limit:g}: {'ok' if met else 'no'})", met)


def _stages(results: Results) -> Sheet:
    bars = {
        name.removeprefix("stages/"): middle(outcome.series)
        for name, outcome in results.cases.items()
        if name.startswith("stages/") and outcome.series
    }
    rows = [
        [
            stage,
            *(_number(took[stage]) if stage in took else "" for took in bars.values()),
        ]
        for stage in STAGES
        if any(stage in took for took in bars.values())
    ]
    if rows:
        rows.append(["all", *(_number(sum(took.values())) for took in bars.values())])
    title = "Create to first result by stage, ms (traced, mean of the middle half)"
    shown = [[[Figure(text)] for text in row] for row in rows]
    return Sheet(title, ["stage", *bars], shown)


def _machine(results: Results) -> Sheet:
    """Return the yardsticks: what the kernel takes, whatever it is that is measured."""
    before, after = (_number(each) for each in _echoes(results))
    rows = [
        [name, f"{_number(results.machine[key])} {unit}", usual]
        for key, name, unit, usual in _YARDSTICKS
        if key in results.machine
    ]
    rows.append(["a gRPC echo between two processes", f"{before}, then {after} ms", ""])
    rows += _bare_start(results)
    shown = [[[Figure(text)] for text in row] for row in rows]
    return Sheet("This machine", ["yardstick", "here", "usual machines"], shown)


def _bare_start(results: Results) -> Iterator[list[str]]:
    """Yield what of a bare start is the kernel's, here and on usual machines."""
    faults, kernel, processor = (
        results.find(_BARE_START, f"bare {name}")
        for name in ("faults", "kernel", "processor")
    )
    if faults is None or kernel is None or processor is None:
        return
    here, *usual = (
        _number(faults.typical * each / 1e6)
        for each in (results.machine["page_fault_ns"], *_FAULT)
    )
    yield [
        f"{_number(faults.typical)} page faults, as a bare start has",
        f"{here} ms",
        f"{' to '.join(usual)} ms",
    ]
    share = 100 * kernel.typical / processor.typical
    yield [
        "processor time of a bare start; of it in the kernel",
        f"{_number(processor.typical)} ms, {_number(share)} %",
        "",
    ]


def _echoes(results: Results) -> list[float]:
    """Return the medians of the gRPC echo before and after the run."""
    return [results.yardstick[name].percentile(50) for name in _ENDS]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def line(name: str, outcome: Outcome) -> str:
    """Return one case in a line, as soon as it is over."""
    if outcome.missing:
        return f"{name}: not available: {outcome.missing}"
    if outcome.failed:
        return f"{name}: FAILED: {outcome.failed}"
    told = []
    for title, series in outcome.series.items():
        if series.histogram:
            p50, p99 = (_number(series.percentile(p)) for p in (50, 99))
            told.append(f"{title} {p50} / {p99} ms")
        else:
            told.append(f"{title} {_number(series.typical)} {series.unit}")
    return f"{name}: {', '.join(told[:4])} [{outcome.seconds:.0f} s]"


def warnings(results: Results) -> Iterator[str]:
    """Yield what speaks against believing absolute figures."""
    for key, who in _TAKERS.items():
        if (taken := results.machine.get(key, 0.0)) > _QUIET:
            cores = results.machine["cores"]
            yield (
                f"{who} used {taken:g} of {cores} cores meanwhile: trust the ratios "
                "only"
            )
    before, after = _echoes(results)
    if max(before, after) > _MOVED * min(before, after):
        yield (
            f"a gRPC echo took {before:.2f} ms before the run and {after:.2f} ms after "
            "it: the machine itself has changed meanwhile"
        )
