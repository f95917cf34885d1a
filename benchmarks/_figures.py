"""Percentiles of samples, for who keeps no histogram."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["rank", "spread"]


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


def rank(count: int, percent: float) -> int:
    """Return which of so many ordered samples is that percentile, from 0."""
    return max(0, math.ceil(count * percent / 100) - 1)
