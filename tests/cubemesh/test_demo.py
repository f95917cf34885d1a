from __future__ import annotations

from dataclasses import replace

import pytest

from cubemesh._demo import Facts
from cubemesh._demo_proofs import Hop, Refusal
from cubemesh._demo_rotation import Rotation

HOP = Hop("a", "b", "spiffe://a", "spiffe://b", "11", "11", "22", "22")
REFUSAL = Refusal("front", "spiffe://x", "not_admitted", "no", 0, 40)
ROTATION = Rotation(
    generations={"router": 4, "client": 3},
    calls=9,
    stream_seconds=8.0,
    stream_outlived=2,
    stream_lines=80,
)


def test_all_that_holds_is_ok() -> None:
    """The good case, which the others spoil one by one."""
    facts = Facts([HOP], {"mtls": 1.0}, [REFUSAL], ROTATION)
    assert facts.ok
    assert list(facts.as_json()) == [
        "ok",
        "hops",
        "first_output_ms",
        "refusals",
        "rotation",
    ]


@pytest.mark.parametrize(
    "hop",
    [
        replace(HOP, source_seen="12"),
        replace(HOP, target_seen="21"),
        replace(HOP, source_presented="", source_seen=""),
        replace(HOP, target_presented="", target_seen=""),
    ],
)
def test_a_leaf_that_the_other_side_did_not_see(hop: Hop) -> None:
    """A hop is proven by both sides or not at all; silence is no proof."""
    assert not Facts([HOP, hop], {}, [REFUSAL], ROTATION).ok


@pytest.mark.parametrize(
    "refusal",
    [
        replace(REFUSAL, answered=40),
        replace(REFUSAL, reason=""),
        replace(REFUSAL, rightful_answered=0),
    ],
)
def test_a_door_that_is_open_or_shut_for_all(refusal: Refusal) -> None:
    """A refusal needs a reason in the log, no answer, and a control that passed."""
    assert not Facts([HOP], {}, [REFUSAL, refusal], ROTATION).ok


@pytest.mark.parametrize(
    "rotation",
    [
        replace(ROTATION, generations={}),
        replace(ROTATION, generations={"router": 4, "client": 2}),
        replace(ROTATION, failed=["call 7: no"]),
        replace(ROTATION, stream_outlived=1),
        replace(ROTATION, stream_lines=0),
        replace(ROTATION, gaps=1),
    ],
)
def test_a_rotation_that_was_noticed(rotation: Rotation) -> None:
    """One failed call, one gap, or too few generations are enough to fail."""
    assert not Facts([HOP], {}, [REFUSAL], rotation).ok


def test_nothing_shown_is_nothing_proven() -> None:
    """Empty lists do not pass."""
    assert not Facts([], {}, [REFUSAL], ROTATION).ok
    assert not Facts([HOP], {}, [], ROTATION).ok
