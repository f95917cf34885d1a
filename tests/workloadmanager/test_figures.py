"""What Prometheus is told of sessions and of the sandboxes' identities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from clock import SYSTEM
from tests.workloadmanager.engine import FakeEngine, House, until, wish
from tests.workloadmanager.test_identities import House as Identities
from workloadmanager._demand import Bounds, Capacity
from workloadmanager._errors import RenewalError, SandboxStartError
from workloadmanager._figures import Figures

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes import FakeClock


def figures(collector: Figures) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def test_tells_how_identities_are(clock: FakeClock, tmp_path: Path) -> None:
    """Renewed, failed by reason, how much time is left, and what issuers lack."""
    there = Identities(clock)
    async with House.open(tmp_path, clock) as house:
        await house.sessions.create(wish())
        collector = Figures(house.sessions, there.identities, clock)
        empty = figures(collector)
        assert "cubemesh_sandbox_identity_seconds_left" not in empty
        assert "cubemesh_identities_ready" not in empty
        sandbox = await there.kept()
        there.issuer.ready = 3
        there.issuer.faults["agent_unavailable"] = 2
        async with there.renewing():
            there.issuer.tell(None)
            await until(lambda: there.identities.renewals)
            sandbox.fault = RenewalError("key_mismatch", "no")
            there.issuer.tell(None)
            await until(lambda: there.identities.failures)
        told = figures(collector)
    assert told["cubemesh_sessions"] == 1
    assert told["cubemesh_sandbox_identities_renewed_total"] == 1
    assert told['cubemesh_sandbox_renewals_failed_total{reason="key_mismatch"}'] == 1
    assert told["cubemesh_sandbox_identity_seconds_left"] == pytest.approx(3600, abs=1)
    assert told['cubemesh_issuer_faults_total{reason="agent_unavailable"}'] == 2
    assert told["cubemesh_identities_ready"] == 3


async def test_tells_how_sandboxes_came_to_be(clock: FakeClock, tmp_path: Path) -> None:
    """Made ahead or for somebody, how many wait, and how often one failed."""
    engine = FakeEngine()
    capacity = Capacity(100, Bounds(1, 1))
    async with House.open(tmp_path, clock, engine=engine, capacity=capacity) as house:
        await until(lambda: house.sessions.pools.ready.get("short") == 1)
        collector = Figures(house.sessions, Identities(clock).identities, clock)
        assert figures(collector)['cubemesh_warm_ready{template="short"}'] == 1
        for _ in range(3):
            await house.sessions.create(wish())
        engine.fault = SandboxStartError("no")
        while not house.sessions.pools.failures:
            await clock.advance(0.05)
            await SYSTEM.sleep(0)
        told = figures(collector)
    assert told['cubemesh_start_seconds_count{start="warm"}'] == 1
    assert told['cubemesh_start_seconds_count{start="cold"}'] == 2
    assert told['cubemesh_warm_ready{template="short"}'] == 0
    assert told['cubemesh_warm_failed_total{template="short"}'] == 1
