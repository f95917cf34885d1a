"""Figures: percentiles of samples, and a target beside a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Target", "difference", "rank", "spread"]


def spread(samples: Sequence[float], *, digits: int = 3) -> dict[str, float | int]:
    """Return p50, p95, p99 and how many *samples* there were.

    A percentile is the smallest sample that so many percent do not exceed.
    """
    ordered = sorted(samples)
    figures: dict[str, float | int] = {
        f"p{percent}": round(ordered[rank(len(ordered), percent)], digits)
        for percent in (50, 95, 99)
    }
    return {**figures, "n": len(ordered)}


def difference(
    whole: dict[str, float | int], part: dict[str, float | int]
) -> dict[str, float | int]:
    """Return *whole* minus *part*, percentile by percentile."""
    percentiles = ("p50", "p95", "p99")
    return {each: round(whole[each] - part[each], 3) for each in percentiles}


@dataclass(frozen=True, slots=True)
class Target:
    """A value, and the bound that the project sets itself."""

    name: str
    value: float
    unit: str
    relation: Literal["<=", ">="]
    bound: float

    @property
    def met(self) -> bool:
        """Whether the value keeps the bound."""
        if self.relation == "<=":
            return self.value <= self.bound
        return self.value >= self.bound

    def as_json(self) -> dict[str, Any]:
        """Return all of it, for the results file."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": f"{self.relation} {self.bound:g}",
            "met": self.met,
        }


def rank(count: int, percent: float) -> int:
    """Return which of so many ordered samples is that percentile, from 0."""
    return max(0, math.ceil(count * percent / 100) - 1)
