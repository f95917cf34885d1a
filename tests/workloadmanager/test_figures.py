"""What Prometheus is told of sessions and of the sandboxes' identities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.workloadmanager.engine import House, until, wish
from tests.workloadmanager.test_identities import House as Identities
from workloadmanager._errors import RenewalError
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
