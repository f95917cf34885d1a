"""What counts as a change between two runs, and what as noise."""

from __future__ import annotations

import random

import pytest

from benchmarks._compare import Comparison, compare
from benchmarks._results import Outcome, Results
from benchmarks._series import Better, Series, latency

pytestmark = pytest.mark.slow


def run(series: Series, *, yardstick: float = 1.0) -> Results:
    """Return a run that has one case with one series."""
    ends = latency([[yardstick * (0.99 + each / 1000) for each in range(20)]])
    both = {"before": ends, "after": ends}
    return Results("", "", {}, both, {"case": Outcome(series={"latency": series})})


def noisy(middle: float, seed: int, *, mood: float = 0.02) -> Series:
    """Return latencies around *middle*; rounds differ by the machine's *mood*."""
    chance = random.Random(seed)  # noqa: S311
    moods = [chance.gauss(1, mood) for _ in range(8)]
    return latency(
        [middle * each * chance.lognormvariate(0, 0.2) for _ in range(100)]
        for each in moods
    )


def steps(unit: str, better: Better, value: float) -> Series:
    """Return one sample a round, each a little above the last."""
    return Series(unit, better, [[value + each / 100] for each in range(8)])


def only(old: Results, new: Results) -> Comparison:
    (found,) = compare(old, new)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_same_program_has_not_changed(seed: int) -> None:
    """Two runs of one thing differ, but not beyond noise."""
    found = only(run(noisy(10, seed)), run(noisy(10, seed + 100)))
    assert found.verdict == "same"


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "WORSE"), (0.7, "better")])
def test_a_real_change_is_seen(factor: float, verdict: str) -> None:
    """Thirty percent are more than rounds differ by."""
    found = only(run(noisy(10, 1)), run(noisy(10 * factor, 2)))
    assert found.verdict == verdict
    (middle, *_) = found.changes
    assert middle.figure == "latency p50"
    assert middle.low < middle.new / middle.old < middle.high


def test_rounds_are_noise_however_many_samples_they_have() -> None:
    """When rounds differ widely, many samples in them make no certainty."""
    old, new = (run(noisy(10, seed, mood=0.4)) for seed in (1, 2))
    assert only(old, new).verdict == "same"


def test_a_change_too_small_to_matter_is_none() -> None:
    """Three percent, however certain, change nobody's day."""
    old, new = (run(latency([[each] * 50] * 8)) for each in (10.0, 10.3))
    assert only(old, new).verdict == "same"


def test_a_slower_machine_is_nobodys_regression() -> None:
    """What the yardstick did, too, is the machine's doing; shares it does not touch."""
    old, new = run(noisy(10, 1)), run(noisy(13, 2), yardstick=1.3)
    assert only(old, new).verdict == "same"
    high, low = (steps("%", "higher", share) for share in (60, 40))
    assert only(run(high), run(low, yardstick=1.3)).verdict == "WORSE"


def test_what_the_bare_one_did_too_is_nobodys_regression() -> None:
    """It tells of the machine what an echo does not, where both runs have it."""
    old, new = (run(noisy(middle, 1)) for middle in (10, 20))
    assert only(old, new).verdict == "WORSE"
    for each, took in ((old, 5), (new, 10)):
        each.cases["case"].series["bare latency"] = noisy(took, 3).beside()
    assert only(old, new).verdict == "same"
    old.cases["case"].series["bare latency"] = noisy(10, 3).beside()
    assert only(old, new).verdict == "WORSE"


@pytest.mark.parametrize(
    ("better", "verdict"), [("higher", "better"), ("lower", "WORSE")]
)
def test_which_way_is_better_is_the_series_to_say(better: Better, verdict: str) -> None:
    """More calls are good, more memory is not."""
    low, high = (steps("x", better, value) for value in (10, 15))
    assert only(run(low), run(high)).verdict == verdict


def test_one_sample_must_move_far() -> None:
    """Without noise to look at, only a fifth and more is a change."""
    one, near, far = (Series("MiB", "lower", [[each]]) for each in (10.0, 11.5, 13.0))
    assert only(run(one), run(near)).verdict == "same"
    assert only(run(one), run(far)).verdict == "WORSE"


def test_what_stands_beside_is_not_judged() -> None:
    """A slower bare forwarder is no fault of the Router."""
    old, new = (run(noisy(middle, 1).beside()) for middle in (10, 20))
    assert not list(compare(old, new))


def test_a_line_tells_the_change() -> None:
    """One line a case: from what to what, by how much, and how sure that is."""
    text = str(only(run(noisy(10, 1)), run(noisy(13, 2))))
    assert text.startswith("WORSE  case: latency p50 ")
    assert "\n" not in text
