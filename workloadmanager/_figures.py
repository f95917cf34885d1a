"""Figures of this room for Prometheus; no session, owner or path in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from clock import SYSTEM
from workloadmanager._values import Start

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from clock import Clock
    from workloadmanager._identities import Identities
    from workloadmanager._sessions import Sessions

__all__ = ["Figures"]


class Figures(Collector):
    """How many sessions there are, how they began and ended, how identities are."""

    def __init__(
        self, sessions: Sessions, identities: Identities, clock: Clock = SYSTEM
    ) -> None:
        self._sessions, self._identities, self._clock = sessions, identities, clock

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
        return now, ended, watchers, *self._of_starts(), *self._of_identities()

    def _of_starts(self) -> Iterable[Metric]:
        maker, pools = self._sessions.maker, self._sessions.pools
        seconds = SummaryMetricFamily(
            "cubemesh_start_seconds",
            "Sessions made, by how their sandbox came to be, and how long that took.",
            labels=("start",),
        )
        for start in Start:
            count, took = maker.starts[start], maker.seconds[start]
            seconds.add_metric((start.name.lower(),), count, took)
        ready = GaugeMetricFamily(
            "cubemesh_warm_ready",
            "Sandboxes made ahead that wait for a session, by template.",
            labels=("template",),
        )
        for name, number in pools.ready.items():
            ready.add_metric((name,), number)
        failed = CounterMetricFamily(
            "cubemesh_warm_failed",
            "Sandboxes made ahead that failed, by template.",
            labels=("template",),
        )
        for name, number in list(pools.failures.items()):
            failed.add_metric((name,), number)
        return seconds, ready, failed

    def _of_identities(self) -> Iterable[Metric]:
        renewed = CounterMetricFamily(
            "cubemesh_sandbox_identities_renewed", "Identities renewed in sandboxes."
        )
        renewed.add_metric((), self._identities.renewals)
        failed = CounterMetricFamily(
            "cubemesh_sandbox_renewals_failed",
            "Renewals that failed, and are tried again, by reason.",
            labels=("reason",),
        )
        for reason, number in list(self._identities.failures.items()):
            failed.add_metric((reason,), number)
        left = GaugeMetricFamily(
            "cubemesh_sandbox_identity_seconds_left",
            "Until the first identity of a live sandbox ends.",
        )
        if (end := self._identities.first_end) is not None:
            left.add_metric((), (end - self._clock.now()).total_seconds())
        faults = CounterMetricFamily(
            "cubemesh_issuer_faults",
            "What kept identities from being issued, by reason.",
            labels=("reason",),
        )
        for reason, number in list(self._identities.faults.items()):
            faults.add_metric((reason,), number)
        ready = GaugeMetricFamily(
            "cubemesh_identities_ready", "Identities made ahead that nobody has yet."
        )
        if (spare := self._identities.ready) is not None:
            ready.add_metric((), spare)
        return renewed, failed, left, faults, ready
