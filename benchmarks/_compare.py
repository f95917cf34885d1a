"""What differs between two runs beyond noise.

Samples of one round are alike, since the machine's mood lasts longer than a call: noise
is what rounds differ by. So a figure is drawn anew 1,000 times from each run, first
rounds and then samples within them (a two-level bootstrap, by Poisson weights). 99 % of
the ratios of new to old lie in an interval; the figure has changed if

- that interval does not hold 1, and
- the ratio is at least 5 % off, and
- the same holds once the runs are divided by their yardstick: what the machine itself
  did is nobody's regression. It is what the bare one took that stands beside, else a
  gRPC echo. Shares and sizes are not divided.

Where a run has one sample there is no noise to look at: a change must be of 20 %.

Source: Davison and Hinkley, Bootstrap Methods and their Application, section 3.8;
Chamandy et al., Estimating Uncertainty for Massive Data Streams, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from benchmarks._results import Results
    from benchmarks._series import Better, Series

    Array = NDArray[np.float64]

__all__ = ["VERDICTS", "Change", "Comparison", "compare"]

Verdict = Literal["same", "better", "WORSE"]
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
_DRAWS: Final = 1000
_OUTSIDE: Final = (0.5, 99.5)  # percentiles of the draws: 99 % lie between
_SMALLEST: Final = 0.05
_BLIND: Final = 0.2
_FEWEST: Final = {50: 5, 90: 50, 99: 200}  # samples for a percentile to mean something
# How a figure moves with the time that all takes on the machine.
_MOVES: Final = {"ms": 1, "us": 1, "/s": -1, "MB/s": -1}


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of two runs; *low* and *high* bound the ratio of new to old."""

    figure: str
    unit: str
    old: float
    new: float
    low: float
    high: float
    verdict: Verdict

    def __str__(self) -> str:
        """Return it in a few words."""
        off, low, high = (
            100 * (each - 1) for each in (self.new / self.old, self.low, self.high)
        )
        return (
            f"{self.figure} {self.old:.4g} → {self.new:.4g} {self.unit} {off:+.1f} % "
            f"({low:+.1f} to {high:+.1f})"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """One case in two runs: all its figures, the chief one first."""

    name: str
    changes: tuple[Change, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of its figures that changed."""
        return max((each.verdict for each in self.changes), key=VERDICTS.index)

    def __str__(self) -> str:
        """Return it in one line: what changed, or else the chief figure."""
        told = [each for each in self.changes if each.verdict != "same"]
        figures = "; ".join(map(str, told or self.changes[:1]))
        return f"{self.verdict:6} {self.name}: {figures}"


def compare(old: Results, new: Results) -> Iterator[Comparison]:
    """Yield every case that both runs have."""
    slower = _echo(new) / _echo(old)
    for name, outcome in new.cases.items():
        pairs = (
            (title, before, after, _machine(old, new, name, title) or slower)
            for title, after in outcome.series.items()
            if (before := old.find(name, title))
            and before.unit == after.unit
            and after.better != "beside"
        )
        found = tuple(change for pair in pairs for change in _changes(*pair))
        if found:
            yield Comparison(name, found)


def _changes(
    title: str, before: Series, after: Series, slower: float
) -> Iterator[Change]:
    both = _Taken.of(before), _Taken.of(after)
    for percent in _percents(before, after):
        label = "" if percent is None else f" p{percent}"
        if min(each.figure(percent) for each in both) > 0:  # else there is no ratio
            yield _change(title + label, after, both, percent, slower)


def _machine(old: Results, new: Results, case: str, title: str) -> float:
    """Return by how much the bare one beside a series became slower; 0: unknown."""
    before, after = (
        each.find(case, f"bare {title.partition(',')[0]}") for each in (old, new)
    )
    if not (before and after and before.typical and after.typical):
        return 0.0
    return float((after.typical / before.typical) ** _MOVES.get(after.unit, 0))


def _echo(results: Results) -> float:
    ends = results.yardstick.values()
    return float(np.median([sample for each in ends for sample in each.samples]))


def _percents(old: Series, new: Series) -> tuple[int | None, ...]:
    """Return which percentiles can be compared; ``None`` stands for the mean."""
    if not new.histogram:
        return (None,)
    count = min(len(old.samples), len(new.samples))
    return tuple(percent for percent, fewest in _FEWEST.items() if count >= fewest)


class _Taken(NamedTuple):
    """Samples as counts: of each of *values*, so many in each round."""

    values: Array
    counts: Array

    @classmethod
    def of(cls, series: Series) -> _Taken:
        values = np.unique(series.samples)
        rows = [
            np.bincount(np.searchsorted(values, each), minlength=len(values))
            for each in series.rounds
        ]
        return cls(values, np.array(rows, dtype=float))

    def figure(self, percent: int | None) -> float:
        return float(self._figures(self.counts.sum(axis=0, keepdims=True), percent)[0])

    def draws(self, percent: int | None, rng: np.random.Generator) -> Array:
        """Return the figure of so many runs that might as well have been this one."""
        rounds = len(self.counts)
        weights = rng.multinomial(rounds, np.full(rounds, 1 / rounds), size=_DRAWS)
        drawn = rng.poisson(weights @ self.counts).astype(float)
        return self._figures(drawn[drawn.sum(axis=1) > 0], percent)

    def _figures(self, counts: Array, percent: int | None) -> Array:
        total = counts.sum(axis=1)
        if percent is None:
            means: Array = counts @ self.values / total
            return means
        wanted = np.ceil(total * percent / 100)
        reached = counts.cumsum(axis=1) >= wanted[:, None]
        found: Array = self.values[reached.argmax(axis=1)]
        return found


def _change(
    name: str,
    series: Series,
    both: tuple[_Taken, _Taken],
    percent: int | None,
    slower: float,
) -> Change:
    old, new = (each.figure(percent) for each in both)
    low, high = _interval(both, percent, new / old)
    machine = slower ** _MOVES.get(series.unit, 0)
    verdicts = {
        _verdict(np.array([new / old, low, high]) / by, series.better)
        for by in (1.0, machine)
    }
    verdict: Verdict = verdicts.pop() if len(verdicts) == 1 else "same"
    return Change(name, series.unit, old, new, low, high, verdict)


def _interval(
    both: tuple[_Taken, _Taken], percent: int | None, ratio: float
) -> tuple[float, float]:
    if min(each.counts.sum() for each in both) < _FEWEST[50]:
        return ratio * (1 - _BLIND), ratio / (1 - _BLIND)
    rng = np.random.default_rng(0)  # the same runs give the same verdict
    before, after = (each.draws(percent, rng) for each in both)
    count = min(len(before), len(after))
    before, after = before[:count], after[:count]
    ratios = after[before > 0] / before[before > 0]
    # So few rounds show less than all of the noise: as Student's t is wider than the
    # normal distribution
    wider = 1 + 2.4 / max(1, min(len(each.counts) for each in both) - 1)
    low, high = ratio * (np.percentile(ratios, _OUTSIDE) / ratio) ** wider
    return float(low), float(high)


def _verdict(ratio_low_high: Array, better: Better) -> Verdict:
    ratio, low, high = ratio_low_high
    if low <= 1 <= high or abs(ratio - 1) < _SMALLEST:
        return "same"
    return "better" if (ratio < 1) == (better == "lower") else "WORSE"
