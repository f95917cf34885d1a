"""Samples of one quantity, in the rounds they were taken in; histograms on disk.

Rounds follow each other in time, so what differs between them is the machine's mood:
`benchmarks._compare` takes noise from there. Latencies are kept in milliseconds and
written as HdrHistograms of microseconds, three digits exact.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

import numpy as np
from hdrh.histogram import HdrHistogram

from benchmarks._figures import rank

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["PERCENTILES", "ROUNDS", "Better", "Series", "in_rounds", "latency"]

T = TypeVar("T")
Better = Literal["lower", "higher", "beside"]
ROUNDS: Final = 8
PERCENTILES: Final = (50, 90, 99)
_LONGEST: Final = 3_600_000_000  # an hour, in microseconds
_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class Series:
    """What was measured; *better* says which way is an improvement.

    ``beside``: not our figure, but one to see ours by. Latencies have many samples a
    round and are kept as a *histogram*.
    """

    unit: str
    better: Better
    rounds: Sequence[Sequence[float]]
    histogram: bool = field(default=False, compare=False)

    @property
    def samples(self) -> list[float]:
        """All of them, in the order they were taken."""
        return [sample for each in self.rounds for sample in each]

    def percentile(self, percent: float) -> float:
        """Return the smallest sample that *percent* of them do not exceed."""
        ordered = sorted(self.samples)
        return ordered[rank(len(ordered), percent)]

    @property
    def typical(self) -> float:
        """The one figure: the mean of rates, which counts pauses; else the median."""
        kind = statistics.fmean if self.unit.endswith("/s") else statistics.median
        return kind(self.samples)

    def beside(self) -> Series:
        """Return the same, as one to see others by."""
        return replace(self, better="beside")

    def as_json(self) -> dict[str, Any]:
        """Return it for the results file."""
        told: dict[str, Any] = {"unit": self.unit, "better": self.better}
        samples = self.samples
        told["n"] = len(samples)
        if not self.histogram:
            return {**told, "value": _short(self.typical), "rounds": self._plain()}
        for percent in PERCENTILES:
            told[f"p{percent}"] = _short(self.percentile(percent))
        told["max"] = _short(max(samples))
        told["histogram"] = _encode(samples)
        told["rounds"] = [_encode(each) for each in self.rounds]
        return told

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Self:
        """Return what `as_json` gave, as exact as its histograms."""
        histogram = "histogram" in told
        read = _decode if histogram else list
        rounds = [read(each) for each in told["rounds"]]
        return cls(told["unit"], told["better"], rounds, histogram)

    def _plain(self) -> list[list[float]]:
        return [[_short(sample) for sample in each] for each in self.rounds]


def latency(rounds: Iterable[Sequence[float]], better: Better = "lower") -> Series:
    """Return a series of milliseconds; empty rounds are left out."""
    return Series("ms", better, [each for each in rounds if each], histogram=True)


def in_rounds(samples: Sequence[T], count: int = ROUNDS) -> list[Sequence[T]]:
    """Cut *samples*, in the order they were taken, into at most *count* rounds."""
    size = max(1, math.ceil(len(samples) / count))
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _encode(samples: Iterable[float]) -> str:
    histogram = HdrHistogram(1, _LONGEST, _DIGITS)
    for sample in samples:
        histogram.record_value(min(_LONGEST, max(1, round(sample * 1000))))
    return bytes(histogram.encode()).decode("ascii")


def _decode(text: str) -> list[float]:
    histogram = HdrHistogram.decode(text.encode("ascii"))
    samples: list[float] = []
    # The package's own iterators visit every value up to the longest: a second each
    for index in np.flatnonzero(np.array(histogram.counts)):
        value = histogram.get_value_from_index(int(index))
        exact = histogram.get_highest_equivalent_value(value) / 1000
        samples += [exact] * histogram.counts[index]
    return samples


def _short(value: float) -> float:
    return float(f"{value:.5g}")
