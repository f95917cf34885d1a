"""Pictures of a run: how latencies are spread, and where the time goes."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

mpl.use("svg")  # no window, wherever this runs
from matplotlib.figure import Figure

from benchmarks._stages import STAGES, middle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks._results import Results
    from benchmarks._series import Series

__all__ = ["draw"]

_SIZE: Final = (9, 5)
_KINDS: Final = ("png", "svg")
# The same figures give the same bytes: a picture in the repository changes with them.
_SAME: Final = {"png": {"Software": None}, "svg": {"Date": None}}


# So many lines as can be told apart: what is drawn, and the cases
_LINES: Final = {
    "create": ("create to first result of RunCode", "create/*run_code/*serial*"),
    "execute": ("create to first result of Execute", "create/*execute/*serial*"),
    "bursts": (
        "creates at once to first result of RunCode",
        "create/*run_code/*[0-9]@*",
        "create/run_code/[0-9]*",
        "create/miss/run_code@*",
    ),
    "calls": ("calls to a sandbox that is there", "hop/*", "exec/*", "code/*"),
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what there is into *folder*; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "cubemesh"
    pictures = {
        name: _distributions(results, patterns, title)
        for name, (title, *patterns) in _LINES.items()
    }
    pictures["stages"] = _stages(results)
    return [
        file
        for name, figure in pictures.items()
        if figure is not None
        for file in _save(figure, folder / name)
    ]


def _save(figure: Figure, path: Path) -> Iterator[Path]:
    for kind in _KINDS:
        file = path.with_suffix(f".{kind}")
        figure.savefig(file, bbox_inches="tight", metadata=_SAME[kind])
        yield file


def _axes(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=_SIZE)
    axes = figure.subplots()
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _distributions(
    results: Results, patterns: Sequence[str], title: str
) -> Figure | None:
    """Draw which share of the samples took at most how long, a line a case."""
    lines = {
        name: series
        for name, outcome in results.cases.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and (series := outcome.series.get("latency") or outcome.series.get("routed"))
        and series.histogram
    }
    if not lines:
        return None
    figure, axes = _axes(f"{title}: share of samples that took at most so long")
    for name, series in lines.items():
        _distribution(axes, name, series)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("percent")
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _distribution(axes: Any, name: str, series: Series) -> None:
    ordered = sorted(series.samples)
    shares = [100 * (rank + 1) / len(ordered) for rank in range(len(ordered))]
    dashes = "--" if name.endswith("@mtls") else "-"
    axes.step(ordered, shares, where="post", label=name, linestyle=dashes, linewidth=1)


def _stages(results: Results) -> Figure | None:
    """Draw a bar for each traced case, cut into its stages."""
    bars = {
        name.removeprefix("stages/"): middle(outcome.series)
        for name, outcome in results.cases.items()
        if name.startswith("stages/") and outcome.series
    }
    if not bars:
        return None
    figure, axes = _axes("create to first result, by stage (traced)")
    left = dict.fromkeys(bars, 0.0)
    colours = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for stage, colour in zip(STAGES, colours, strict=False):
        widths = [took.get(stage, 0.0) for took in bars.values()]
        if any(widths):
            axes.barh(
                list(bars), widths, left=list(left.values()), label=stage, color=colour
            )
        for name, width in zip(bars, widths, strict=True):
            left[name] += width
    axes.set_xlabel("milliseconds")
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
