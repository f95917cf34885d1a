"""Traces: in an application that uses OpenTelemetry each call is a span of its trace.

We load nothing of OpenTelemetry: who traces has loaded it, and set up where spans go.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc
    import grpc.aio


class TracedChannel:
    """What stubs are made on in place of *channel*: its calls, told in traces."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        """Return what makes calls of one *kind*, e.g. ``unary_stream``."""
        make = getattr(self._channel, kind)

        def made(method: str, **how: Any) -> Callable[..., Any]:
            return _told(method, make(method, **how))

        return made


def _told(method: str, start: Callable[..., Any]) -> Callable[..., Any]:
    name = method.removeprefix("/")

    def call(*request: Any, metadata: tuple[Any, ...] = (), **how: Any) -> Any:
        trace = sys.modules.get("opentelemetry.trace")
        if trace is None:
            return start(*request, metadata=metadata, **how)
        span, carried = _begun(trace, name)
        try:
            made = start(*request, metadata=(*metadata, *carried), **how)
        except BaseException:
            span.end()
            raise
        made.add_done_callback(lambda done: _end(trace, span, done))
        return made

    return call


def _begun(trace: Any, name: str) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """Return the span of a call, and the metadata that carry it to the mesh."""
    span = trace.get_tracer("cubemesh").start_span(
        name,
        kind=trace.SpanKind.CLIENT,
        attributes={"rpc.system.name": "grpc", "rpc.method": name},
    )
    w3c: Any = import_module("opentelemetry.trace.propagation.tracecontext")
    carried: dict[str, str] = {}
    w3c.TraceContextTextMapPropagator().inject(carried, trace.set_span_in_context(span))
    return span, tuple(carried.items())


def _end(trace: Any, span: Any, done: grpc.aio.Call) -> None:
    code = _code(done)
    span.set_attribute("rpc.response.status_code", code)
    if code != "OK":
        span.set_attribute("error.type", code)
        span.set_status(trace.StatusCode.ERROR)
    span.end()


def _code(done: grpc.aio.Call) -> str:
    """Name the status of a call that is over: nothing is waited for."""
    try:
        done.code().send(None)
    except StopIteration as answer:
        code: grpc.StatusCode = answer.value
        return code.name
    raise AssertionError
