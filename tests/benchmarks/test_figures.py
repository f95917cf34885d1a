"""The arithmetic behind the figures that we publish."""

from __future__ import annotations

import pytest

from benchmarks._figures import Target, difference, spread


def test_a_percentile_is_one_of_the_samples() -> None:
    """No percentile is made up between two samples, and order does not matter."""
    samples = [float(number) for number in range(100, 0, -1)]
    assert spread(samples) == {"p50": 50, "p95": 95, "p99": 99, "n": 100}
    assert spread([7.0]) == {"p50": 7, "p95": 7, "p99": 7, "n": 1}


def test_a_difference_is_taken_percentile_by_percentile() -> None:
    """The hop is the routed call minus the direct one, at the same percentile."""
    whole, part = spread([3.0, 5.0, 9.0]), spread([1.0, 2.0, 4.0])
    assert difference(whole, part) == {"p50": 3, "p95": 5, "p99": 5}


@pytest.mark.parametrize(
    ("relation", "value", "met"),
    [("<=", 1.0, True), ("<=", 1.1, False), (">=", 1.0, True), (">=", 0.9, False)],
)
def test_a_target_keeps_its_bound(relation: str, value: float, *, met: bool) -> None:
    """The bound itself is still good, on both sides."""
    target = Target("hop", value, "ms", relation, 1.0)  # type: ignore[arg-type]
    assert target.met is met
    assert target.as_json()["target"] == f"{relation} 1"
