"""When a soak has held, and what it tells when it has not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks._cycles import Cycles, Left
from benchmarks._mesh import Mesh
from benchmarks._soak import Cost, Soak, warned

if TYPE_CHECKING:
    from pathlib import Path

SAME = [Cost(30, 10, 70.0)] * 40
QUIET = Left(25, 325, 77, 20, 6, 61, 470.0)


def soak(*, costs: list[Cost] = SAME, changes: int = 60) -> Soak:
    """Return a soak of one minute that held, unless told otherwise."""
    return Soak(1.0, calls=100, costs={"router": costs}, generations={"any": changes})


def test_a_soak_without_a_failure_or_growth_has_held() -> None:
    """All calls answered, all identities changed, all processes flat."""
    assert soak().held


def test_one_failed_call_is_too_many() -> None:
    """A rotation that one caller noticed is a fault."""
    seen = soak()
    seen.failures.append("call 7: DeniedError: denied")
    assert not seen.held


def test_identities_that_did_not_change_prove_nothing() -> None:
    """Half of the changes that were due must have been seen by each service."""
    assert soak(changes=30).held
    assert not soak(changes=29).held


@pytest.mark.parametrize(
    "more",
    [Cost(2, 0, 0.0), Cost(0, 1, 0.0), Cost(0, 0, 1.0)],
    ids=["descriptors", "threads", "memory"],
)
def test_what_grows_slowly_has_not_held(more: Cost) -> None:
    """Each look finds a little more than the one before."""
    first = SAME[0]
    grows = [
        Cost(
            first.descriptors + look * more.descriptors,
            first.threads + look * more.threads,
            first.rss_mib + look * more.rss_mib,
        )
        for look in range(40)
    ]
    assert not soak(costs=grows).held


def test_what_is_held_once_and_kept_is_no_growth() -> None:
    """Caches that fill in the first quarter are no leak."""
    assert soak(costs=[Cost(10, 5, 40.0)] * 10 + SAME[:30]).held


def test_nothing_of_a_thousand_sandboxes_may_be_left() -> None:
    """A process, a mount or a group that stays is a leak, however many there were."""
    ended = Cycles(1000, before=QUIET, after=QUIET)
    assert ended.held
    for name in ("processes", "mounts", "groups"):
        left = QUIET._replace(**{name: getattr(QUIET, name) + 1})
        assert not replace(ended, after=left).held
    assert not replace(ended, failures=["cycle 3: denied"]).held
    assert not replace(ended, after=None).held


def test_reasons_of_refusals_are_told(tmp_path: Path) -> None:
    """Why a call was denied is known to the service alone: its log is counted."""
    logs = tmp_path / "state" / "logs"
    logs.mkdir(parents=True)
    refused = {"event": "call refused", "reason": "expired", "level": "warning"}
    usual = {"event": "identity loaded", "level": "info"}
    lines = [json.dumps(each) for each in (usual, refused, refused)]
    (logs / "router.log").write_text("\n".join(lines))
    (logs / "sbx-a.log").write_text(lines[1] + "\nSegmentation fault\n")

    assert warned(Mesh("mtls", tmp_path, 0)) == {
        "router: call refused (expired)": 2,
        "picod: call refused (expired)": 1,
        "picod: Segmentation fault (-)": 1,
    }
