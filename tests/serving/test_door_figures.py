"""What Prometheus learns of doors and dialers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest

from serving import DoorFigures
from tlsloader import AllowlistFile, Tally

if TYPE_CHECKING:
    from pathlib import Path


def lines(figures: DoorFigures) -> set[str]:
    """Return the samples of one scrape."""
    registry = CollectorRegistry()
    registry.register(figures)
    text = generate_latest(registry).decode()
    return {line for line in text.splitlines() if not line.startswith("#")}


async def test_each_figure_has_the_name_of_its_door(tmp_path: Path) -> None:
    """Connections, and why there are not more of them, by reason."""
    front, dialled = Tally(connections=3, drains=2), Tally(connections=1)
    front.refusals["not_admitted"] += 4
    front.evictions["untrusted_chain"] += 1
    front.denials["goaway_ignored"] += 5
    dialled.refusals["unreachable"] += 6
    path = tmp_path / "ids"
    path.touch()
    listed = await AllowlistFile.load(path)
    listed.refusals["malformed_line"] += 7
    figures = DoorFigures({"front": front}, {"sandbox": dialled}, {"clients": listed})
    assert lines(figures) == {
        'cubemesh_door_connections{door="front"} 3.0',
        'cubemesh_door_drains_total{door="front"} 2.0',
        'cubemesh_door_refused_total{door="front",reason="not_admitted"} 4.0',
        'cubemesh_door_evicted_total{door="front",reason="untrusted_chain"} 1.0',
        'cubemesh_door_calls_denied_total{door="front",reason="goaway_ignored"} 5.0',
        'cubemesh_dial_connections{dial="sandbox"} 1.0',
        'cubemesh_dial_drains_total{dial="sandbox"} 0.0',
        'cubemesh_dial_refused_total{dial="sandbox",reason="unreachable"} 6.0',
        'cubemesh_allowlist_kept_total{list="clients",reason="malformed_line"} 7.0',
    }


def test_a_service_without_doors_has_no_figures_of_them() -> None:
    """Neither is an error."""
    assert lines(DoorFigures({})) == set()
