"""The Router's own figures for Prometheus; no session, user or path among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import Metric

__all__ = ["Figures"]


class Figures(Collector):
    """Reads *gauges* and *counts* by name, and *refusals* by reason, when asked."""

    def __init__(
        self,
        gauges: Mapping[str, tuple[str, Callable[[], float]]],
        counts: Mapping[str, tuple[str, Callable[[], float]]],
        refusals: Counter[str],
    ) -> None:
        self._gauges, self._counts, self._refusals = gauges, counts, refusals

    def collect(self) -> Iterable[Metric]:
        """Yield the figures as they are now."""
        for name, (text, read) in self._gauges.items():
            yield GaugeMetricFamily(f"cubemesh_router_{name}", text, value=read())
        for name, (text, read) in self._counts.items():
            yield CounterMetricFamily(f"cubemesh_router_{name}", text, value=read())
        refused = CounterMetricFamily(
            "cubemesh_router_refused", "Calls refused, by reason.", labels=("reason",)
        )
        for reason, number in list(self._refusals.items()):
            refused.add_metric((reason,), number)
        yield refused
