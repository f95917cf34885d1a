"""Cases on a real mesh."""

from __future__ import annotations

import pytest

from benchmarks import cases as all_cases
from benchmarks._case import chosen
from benchmarks._run import measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

assert all_cases


async def test_a_mesh_is_measured_and_its_time_divided() -> None:
    """Calls beside the bare ones, and the stages of a sandbox's first result."""
    names = ("exec/true@jwt", "code/live@mtls", "stages/cold/execute@mtls")
    found = await measure(
        chosen("quick", names), depth="quick", minutes=5, tell=lambda *_: None
    )
    outcomes = found.cases
    assert {
        name: each.failed + each.missing for name, each in outcomes.items()
    } == dict.fromkeys(names, "")
    for name in names[:2]:
        assert outcomes[name].series["latency"].percentile(50) > 0
        assert outcomes[name].series["latency of bare"].typical > 0
    stages = dict(outcomes[names[2]].series)
    total = stages.pop("total").samples
    assert {"SDK", "Router", "start of PicoD", "handshake", "code"} <= set(stages)
    parts = zip(*(each.samples for each in stages.values()), strict=True)
    assert [sum(each) for each in parts] == pytest.approx(total, rel=0.001)
