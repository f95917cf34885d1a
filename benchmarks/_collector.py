"""A collector of traces: takes spans by OTLP, and those of our own process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc.aio
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["Collector", "Span", "collector", "provider"]


@dataclass(frozen=True, slots=True)
class Span:
    """One span; times in nanoseconds since the epoch, ids in hexadecimal.

    *asking*: it waits for another service (a span of kind client).
    """

    trace: str
    id: str
    parent: str
    service: str
    name: str
    began: int
    ended: int
    asking: bool = False
    attributes: dict[str, str] = field(default_factory=dict, compare=False)

    def within(self, other: Span) -> Span:
        """Return this, cut to the time of *other*."""
        began = min(max(self.began, other.began), other.ended)
        return replace(
            self, began=began, ended=max(began, min(self.ended, other.ended))
        )


@dataclass(slots=True)
class Collector:
    """What has come in; ``endpoint`` is where to send it."""

    endpoint: str
    spans: list[Span] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, spans: Iterable[Span]) -> None:
        """Add *spans*, and wake up who waits for them."""
        self.spans += spans
        self.news.set()

    async def until(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """Return all spans, once *enough* says that those which matter are there."""
        while not enough(self.spans):
            self.news.clear()
            await self.news.wait()
        return self.spans


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Take spans on a free port of this machine while the block runs."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    made = Collector(f"http://127.0.0.1:{port}")
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(_Servicer(made), server)
    await server.start()
    try:
        yield made
    finally:
        await server.stop(0)


def provider(into: Collector) -> TracerProvider:
    """Return what makes spans of our own process, and puts them into *into*, too."""
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(_Processor(into))
    return made


class _Servicer(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, into: Collector) -> None:
        self._into = into

    async def Export(self, request: Any, _: object) -> Any:  # noqa: N802
        self._into.take(
            _of_wire(span, _text(group.resource.attributes).get("service.name", ""))
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        )
        return trace_service_pb2.ExportTraceServiceResponse()


class _Processor(SpanProcessor):
    def __init__(self, into: Collector) -> None:
        self._into = into

    def on_end(self, span: ReadableSpan) -> None:
        self._into.take((_of_ours(span),))


def _of_wire(wire: Any, service: str) -> Span:
    return Span(
        trace=wire.trace_id.hex(),
        id=wire.span_id.hex(),
        parent=wire.parent_span_id.hex(),
        service=service,
        name=wire.name,
        began=wire.start_time_unix_nano,
        ended=wire.end_time_unix_nano,
        asking=wire.kind == trace_pb2.Span.SPAN_KIND_CLIENT,
        attributes=_text(wire.attributes),
    )


def _of_ours(span: ReadableSpan) -> Span:
    own = span.get_span_context()
    assert own is not None  # noqa: S101 - every span has one
    return Span(
        trace=trace.format_trace_id(own.trace_id),
        id=trace.format_span_id(own.span_id),
        parent=trace.format_span_id(span.parent.span_id) if span.parent else "",
        service="client",
        name=span.name,
        began=span.start_time or 0,
        ended=span.end_time or 0,
        asking=span.kind is trace.SpanKind.CLIENT,
        attributes={key: str(value) for key, value in (span.attributes or {}).items()},
    )


def _text(attributes: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes}
