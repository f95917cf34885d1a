"""Prometheus: how many calls of which method ended how, and how long they took."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from serving._around import Around, code_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc
    from prometheus_client import Metric

    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["Calls", "Metrics"]

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0)


class Metrics:
    """A service's figures: its calls, its process, and collectors of its own.

    ``calls`` is the interceptor to give to `new_server`, outermost. Add own
    collectors by ``registry.register``, with no session, user or path as label.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Calls()
        self.registry.register(self.calls)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)


class Calls(Around, Collector):
    """Count calls by method and code, and time them; a few microseconds each.

    Plain ints in plain dicts, written on the event loop alone and read by the
    thread that answers scrapes: `prometheus_client`'s own counters take locks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ended: dict[tuple[str, str], list[float]] = {}
        self._running: dict[str, int] = {}

    def begin(self, method: str) -> float:
        """Note that a call of *method* began; returns what `end` wants."""
        self._running[method] = self._running.get(method, 0) + 1
        return time.perf_counter()

    def end(self, method: str, code: str, began: float) -> None:
        """Note that the call ended with *code*, e.g. ``NOT_FOUND``."""
        took = time.perf_counter() - began
        self._running[method] -= 1
        row = self._ended.get((method, code))
        if row is None:
            row = self._ended[method, code] = [0.0] * (len(_BUCKETS) + 2)
        row[bisect_left(_BUCKETS, took)] += 1
        row[-1] += took

    def block(self, method: str, context: Context) -> _Counted:
        """Return what counts and times one call."""
        return _Counted(self, method, context)

    def collect(self) -> Iterable[Metric]:
        """Yield the figures; called by the thread of `serving._scrape`."""
        seconds = HistogramMetricFamily(
            "cubemesh_call_seconds",
            "Calls ended, by method and status code, and how long they took.",
            labels=("method", "code"),
        )
        for (method, code), row in list(self._ended.items()):
            seconds.add_metric((method, code), _cumulated(row), row[-1])
        running = GaugeMetricFamily(
            "cubemesh_calls_running", "Calls running now.", labels=("method",)
        )
        for method, number in list(self._running.items()):
            running.add_metric((method,), number)
        return seconds, running


def _cumulated(row: list[float]) -> list[tuple[str, float]]:
    total, pairs = 0.0, []
    for bound, number in zip((*map(str, _BUCKETS), "+Inf"), row[:-1], strict=True):
        total += number
        pairs.append((bound, total))
    return pairs


class _Counted:
    """One call of *method*, noted while the block runs."""

    __slots__ = ("_began", "_calls", "_context", "_method")

    def __init__(self, calls: Calls, method: str, context: Context) -> None:
        self._calls, self._method, self._context = calls, method, context

    def __enter__(self) -> None:
        self._began = self._calls.begin(self._method)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        code = code_of(self._context, error)
        self._calls.end(self._method, code, self._began)
