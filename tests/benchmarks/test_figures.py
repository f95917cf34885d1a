"""The arithmetic behind the figures that we publish."""

from __future__ import annotations

from benchmarks._figures import spread


def test_a_percentile_is_one_of_the_samples() -> None:
    """No percentile is made up between two samples, and order does not matter."""
    samples = [float(number) for number in range(100, 0, -1)]
    assert spread(samples) == {"p50": 50, "p95": 95, "p99": 99, "n": 100}
    assert spread([7.0]) == {"p50": 7, "p95": 7, "p99": 7, "n": 1}
