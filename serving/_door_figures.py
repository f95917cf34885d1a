"""Prometheus: what became of those who came in, and of those we went to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from tlsloader import AllowlistFile, Tally

__all__ = ["DoorFigures"]


class DoorFigures(Collector):
    """Reads, when asked, the tallies of *doors* and *dials*, each by its name.

    *lists* are the allowlists in files, by their flags. No address and no identity is
    a label: there may be as many as peers like.
    """

    def __init__(
        self,
        doors: Mapping[str, Tally],
        dials: Mapping[str, Tally] | None = None,
        lists: Mapping[str, AllowlistFile] | None = None,
    ) -> None:
        self._doors, self._dials, self._lists = doors, dials or {}, lists or {}

    def collect(self) -> Iterable[Metric]:
        """Yield the figures as they are now."""
        yield from _tallied("door", self._doors)
        denied = {name: tally.denials for name, tally in self._doors.items()}
        text = "Calls that a gate refused or ended, by reason."
        yield _by_reason("cubemesh_door_calls_denied", text, "door", denied)
        yield from _tallied("dial", self._dials)
        kept = {name: each.refusals for name, each in self._lists.items()}
        text = (
            "Bad states of files with allowlists, by reason; the last good one stays."
        )
        yield _by_reason("cubemesh_allowlist_kept", text, "list", kept)


def _tallied(kind: str, tallies: Mapping[str, Tally]) -> Iterator[Metric]:
    opened = GaugeMetricFamily(
        f"cubemesh_{kind}_connections", "Proven connections now.", labels=(kind,)
    )
    drains = CounterMetricFamily(
        f"cubemesh_{kind}_drains",
        "Connections that were asked to end for a newer one.",
        labels=(kind,),
    )
    for name, tally in tallies.items():
        opened.add_metric((name,), tally.connections)
        drains.add_metric((name,), tally.drains)
    yield opened
    yield drains
    refused = {name: tally.refusals for name, tally in tallies.items()}
    text = "Connections that were never proven, by reason."
    yield _by_reason(f"cubemesh_{kind}_refused", text, kind, refused)
    evicted = {name: tally.evictions for name, tally in tallies.items()}
    text = "Proven connections that we ended before their time, by reason."
    yield _by_reason(f"cubemesh_{kind}_evicted", text, kind, evicted)


def _by_reason(
    name: str, text: str, label: str, counts: Mapping[str, Counter[str]]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label, "reason"))
    for one, reasons in counts.items():
        for reason, number in list(reasons.items()):
            family.add_metric((one, reason), number)
    return family
