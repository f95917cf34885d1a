"""Every instant of a trace belongs to one stage."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks._collector import Span
from benchmarks._series import Series, latency
from benchmarks._stages import breakdown, middle

EXECUTE = "cubemesh.v1.PicoD/Execute"
ROOT = Span("t", "root", "", "client", "all", 0, 10_000_000)


def span(name: str, service: str, parent: str, began: int, ended: int) -> Span:
    """Return a span; its times are in tenths of milliseconds."""
    tenth = 100_000
    at = (began * tenth, ended * tenth)
    return Span("t", f"{service}-{name}", parent, service, name, *at)


CALL = replace(span(EXECUTE, "client", "root", 10, 90), asking=True)
SERVED = span(EXECUTE, "router", CALL.id, 20, 80)


def test_the_deepest_span_has_the_time() -> None:
    """Who waits for another has only what is left of its own time."""
    inner = span("picod.code", "picod", SERVED.id, 30, 60)
    assert breakdown(ROOT, [ROOT, CALL, SERVED, inner]) == pytest.approx(
        {"SDK": 2, "to the Router": 2, "Router": 3, "code": 3}
    )


def test_of_two_at_once_the_first_has_the_time() -> None:
    """A handshake that the call waits for is not the way to PicoD."""
    shaking = span("router.handshake", "router", SERVED.id, 30, 50)
    asking = span("cubemesh.v1.PicoD/Onward", "router", SERVED.id, 35, 70)
    asking = replace(asking, asking=True)
    found = breakdown(ROOT, [ROOT, CALL, SERVED, shaking, asking])
    assert found["handshake"] == pytest.approx(2)
    assert found["to PicoD"] == pytest.approx(2)


def test_other_traces_and_what_runs_on_do_not_count() -> None:
    """Only what is below the root, and while it runs."""
    late = span("engine.bind", "workloadmanager", "root", 95, 300)
    other = Span("another", "x", "root", "picod", "picod.code", 0, 10_000_000)
    assert breakdown(ROOT, [ROOT, late, other]) == pytest.approx(
        {"SDK": 9.5, "binding": 0.5}
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 120), st.integers(0, 120), st.integers(0, 5)),
        max_size=8,
    )
)
def test_stages_add_up_to_the_whole(parts: list[tuple[int, int, int]]) -> None:
    """Whatever the spans below are, no time is lost or counted twice."""
    spans, ids = [ROOT], ["root"]
    for number, (one, other, parent) in enumerate(parts):
        below = ids[parent % len(ids)]
        made = span(f"part{number}", "router", below, min(one, other), max(one, other))
        spans.append(made)
        ids.append(made.id)
    assert sum(breakdown(ROOT, spans).values()) == pytest.approx(10)


def test_the_middle_half_adds_up() -> None:
    """Slow and fast traces are left out as a whole, so that stages stay a sum."""
    totals = [1.0, 10.0, 12.0, 500.0]
    series = {
        "total": latency([totals]),
        "code": Series("ms", "lower", [[0.5, 4.0, 5.0, 400.0]]),
        "Router": Series("ms", "lower", [[0.5, 6.0, 7.0, 100.0]]),
    }
    assert middle(series) == {"code": 4.5, "Router": 6.5}
