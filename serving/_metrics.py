"""Prometheus: how many calls of which method ended how, and how long they took."""

from __future__ import annotations

import time
from bisect import bisect_left
from contextlib import aclosing
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final

import grpc
from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from prometheus_client import Metric

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["Calls", "Metrics"]

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0)
_METHOD_LIMIT = 200  # a forwarded service may have names we never heard of
_OK = "OK"
_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


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


class Calls(grpc.aio.ServerInterceptor, Collector):
    """Count calls by method and code, and time them; a few microseconds each.

    Plain ints in plain dicts, written on the event loop alone and read by the
    thread that answers scrapes: `prometheus_client`'s own counters take locks.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
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

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Put the count around the method's handler, made once per method."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        if handler is None:
            return handler
        if known is None and len(self._wrapped) >= _METHOD_LIMIT:
            return _counted(handler, "other", self)
        wrapped = _counted(handler, method, self)
        self._wrapped[method] = handler, wrapped
        return wrapped

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


def _counted(handler: Handler, method: str, calls: Calls) -> Handler:
    """Return *handler* with the count around it, whichever of its kinds it is."""
    kind = "_".join(
        "stream" if many else "unary"
        for many in (handler.request_streaming, handler.response_streaming)
    )
    inner = getattr(handler, kind)

    async def once(request: Any, context: Context) -> Any:
        began, failed = calls.begin(method), ""
        try:
            return await inner(request, context)
        except BaseException as error:
            failed = _name_of(error)
            raise
        finally:
            calls.end(method, _code(context, failed), began)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        began, failed = calls.begin(method), ""
        try:
            async with aclosing(inner(request, context)) as responses:
                async for response in responses:
                    yield response
        except BaseException as error:
            failed = _name_of(error)
            raise
        finally:
            calls.end(method, _code(context, failed), began)

    by_hand = not handler.response_streaming or iscoroutinefunction(inner)
    counted: Handler = getattr(grpc, f"{kind}_rpc_method_handler")(
        once if by_hand else stream,
        handler.request_deserializer,
        handler.response_serializer,
    )
    return counted


def _name_of(error: BaseException) -> str:
    return "UNKNOWN" if isinstance(error, Exception) else "CANCELLED"


def _code(context: Context, failed: str) -> str:
    """Return the name of the status the call ended with, as far as we can see."""
    code: Any = context.code()
    if code:
        return code.name if isinstance(code, grpc.StatusCode) else _NAMES[int(code)]
    return failed or _OK
