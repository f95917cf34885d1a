"""How a service's identity is, as Prometheus sees it; no caller and no path in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from serving._health import Health
    from tlsloader import KeptSource

__all__ = ["IdentityFigures"]


class IdentityFigures(Collector):
    """Reads *source*, and *health* with it, whenever somebody asks."""

    def __init__(self, source: KeptSource, health: Health) -> None:
        self._source = source
        self._health = health

    def collect(self) -> Iterable[Metric]:
        """Yield the figures; called by the thread that answers scrapes."""
        for name, text, value in self._gauges():
            yield GaugeMetricFamily(f"cubemesh_{name}", text, value=value)
        failures = CounterMetricFamily(
            "cubemesh_identity_failures",
            "States of files or agent that were seen and not used, by reason.",
            labels=("reason",),
        )
        for reason, number in list(self._source.refusals.items()):
            failures.add_metric((reason,), number)
        yield failures
        kind = {"source": self._source.kind}
        text = "Where the identity comes from."
        yield InfoMetricFamily("cubemesh_identity", text, value=kind)
        yield self._bundles()

    def _gauges(self) -> Iterable[tuple[str, str, float]]:
        source = self._source
        return (
            ("ready", "Whether calls are wanted.", self._health.ready),
            (
                "identity_usable",
                "Whether the identity can be proven: it is between its dates.",
                source.usable,
            ),
            (
                "identity_generation",
                "Number of the identity in use; the first after a start is 1.",
                source.generation,
            ),
            (
                "identity_age_seconds",
                "Seconds since the identity in use was loaded.",
                source.age,
            ),
            (
                "identity_expires_in_seconds",
                "Seconds until the identity in use expires; negative afterwards.",
                source.seconds_left,
            ),
            (
                "identity_last_success_timestamp_seconds",
                "When files or agent were last found wholly right.",
                source.confirmed.timestamp(),
            ),
        )

    def _bundles(self) -> Metric:
        found = InfoMetricFamily(
            "cubemesh_trust_bundle",
            "The roots by which peers are judged, by trust domain.",
            labels=("trust_domain",),
        )
        for domain, bundle in self._source.current().bundles.items():
            found.add_metric((domain,), {"fingerprint": bundle.short_fingerprint})
        return found
