"""Samples in rounds, and as histograms on disk."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._series import Series, in_rounds, latency


def test_a_percentile_is_one_of_the_samples() -> None:
    """No percentile is made up between two samples, and order does not matter."""
    series = latency([[float(number) for number in range(100, 0, -1)]])
    assert [series.percentile(percent) for percent in (50, 90, 99)] == [50, 90, 99]


@pytest.mark.parametrize(("unit", "typical"), [("/s", 34), ("MiB", 2)])
def test_a_rate_is_its_mean(unit: str, typical: float) -> None:
    """A pause counts in a rate; an outlier of anything else does not."""
    series = Series(unit, "higher", [[1.0], [2.0], [99.0]])
    assert series.typical == typical


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 9))
def test_rounds_keep_every_sample_in_order(samples: list[int], count: int) -> None:
    """Cutting loses nothing, and makes no more rounds than it was asked for."""
    rounds = in_rounds(samples, count)
    assert [sample for each in rounds for sample in each] == samples
    assert len(rounds) <= count


def test_histograms_are_exact_to_three_digits() -> None:
    """What is read back has the same counts by round and percentiles to 0.1 %."""
    chance = random.Random(1)  # noqa: S311
    taken = latency(in_rounds([chance.expovariate(0.01) for _ in range(2000)]))
    read = Series.of_json(taken.as_json())
    assert [len(each) for each in read.rounds] == [len(each) for each in taken.rounds]
    for percent in (1, 50, 99, 100):
        wanted = taken.percentile(percent)
        assert read.percentile(percent) == pytest.approx(wanted, rel=0.001, abs=0.001)


def test_other_figures_are_kept_as_they_are() -> None:
    """Rates and sizes are few and need no histogram."""
    taken = Series("/s", "higher", [[10.5], [12.25]])
    assert Series.of_json(taken.as_json()) == taken


def test_the_shortest_and_longest_are_kept() -> None:
    """Nothing falls out at the ends: below a microsecond, above an hour."""
    read = Series.of_json(latency([[0.0, 1e9]]).as_json())
    assert read.percentile(1) == 0.001
    assert read.percentile(100) == pytest.approx(3_600_000, rel=0.001)
