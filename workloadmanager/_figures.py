"""Figures of this room for Prometheus; no session, owner or path in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from workloadmanager._sessions import Sessions

__all__ = ["Figures"]


class Figures(Collector):
    """How many sessions there are, and how those that ended did."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterable[Metric]:
        """Yield the figures; called by the thread that answers scrapes."""
        now = GaugeMetricFamily("cubemesh_sessions", "Sessions that are not over.")
        now.add_metric((), len(self._sessions))
        ended = CounterMetricFamily(
            "cubemesh_sessions_ended", "Sessions ended, by what.", labels=("by",)
        )
        for cause, number in list(self._sessions.ended.items()):
            ended.add_metric((cause,), number)
        watchers = GaugeMetricFamily("cubemesh_watchers", "Routers that watch.")
        watchers.add_metric((), self._sessions.feed.watchers)
        return now, ended, watchers
