"""Traces: where the time of one call goes, told to OpenTelemetry when somebody listens.

Off unless `tracing` is entered with an endpoint: then no module of OpenTelemetry is
loaded, servers get no interceptor, and what is left is one comparison each. Spans hold
names of methods and codes of statuses; no path, no argument, no text of an error.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from serving._around import Around, code_of
from serving._faults import FatalError
from serving._flags import OTLP
from serving._settings import flag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]
    Metadata = tuple[tuple[str, str | bytes], ...]

__all__ = [
    "begun",
    "call_spans",
    "carried",
    "load_tracing",
    "otlp_flag",
    "span",
    "tracing",
]

_FIELDS: Final = frozenset(("traceparent", "tracestate"))
_HEALTH: Final = "/grpc.health.v1."
_MODULES: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk.resources",
)
_FLUSH: Final = 1.0  # seconds that the last spans may take to be sent
_OFF: Final = nullcontext()
# What a server is to blame for. Source: OpenTelemetry, RPC spans, server span status
_FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE")
) | {"DATA_LOSS"}

_spans: _Spans | None = None  # nobody listens


def otlp_flag() -> Any:
    """Declare ``--otlp-endpoint``, the same for every service."""
    return flag(
        "--otlp-endpoint",
        OTLP,
        default=None,
        also=("OTEL_EXPORTER_OTLP_ENDPOINT", ()),
        help="Send traces to this collector, by OTLP over gRPC: http://HOST:4317",
    )


@asynccontextmanager
async def tracing(
    service: str,
    endpoint: str | None,
    *,
    edge: bool = False,
    every: float | None = None,
) -> AsyncIterator[None]:
    """Send the spans of *service* to *endpoint* while the block runs; ``None``: off.

    At the *edge* a call that is part of no trace begins one; elsewhere it has none.
    They are sent *every* so many seconds, if not ``OTEL_BSP_SCHEDULE_DELAY`` decides;
    the other ``OTEL_…`` variables hold as everywhere. The end waits at most a second
    for a collector that does not answer.

    Raises:
        FatalError: OpenTelemetry is not installed.
    """
    global _spans  # noqa: PLW0603 - one process, one collector, as with logs
    if endpoint is None:
        yield
        return
    processor, tracer = _open(service, endpoint, every)
    _spans = _Spans(tracer, edge=edge)
    try:
        yield
    finally:
        _spans = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH):
                await _shut_down(processor)


def load_tracing() -> None:
    """Load what `tracing` needs, if it is there; nothing is begun.

    For who is forked afterwards: it takes some tenths of a second.
    """
    with suppress(ImportError):
        for name in _MODULES:
            import_module(name)


def span(name: str, *, asking: bool = False) -> AbstractContextManager[Any]:
    """Tell how long the block takes, as a part of the call at hand.

    *asking*: it waits for another service; *name* is the method called there.
    """
    return _OFF if _spans is None else _spans.part(name, asking=asking)


def begun(name: str) -> Callable[..., None] | None:
    """Begin a part of the call at hand; return what ends it, once, whatever it is told.

    ``None``: nobody listens.
    """
    return None if _spans is None else _spans.begun(name)


def carried(metadata: Metadata = ()) -> Metadata:
    """Return *metadata*, naming what runs just now as the caller in the trace."""
    return metadata if _spans is None else _spans.carried(metadata)


def call_spans() -> Sequence[grpc.aio.ServerInterceptor]:
    """Return what gives each call of a server its span: nothing when nobody listens."""
    return () if _spans is None else (_spans,)


class _Spans(Around):
    """Makes spans by *tracer*; as interceptor, one for each call of a server."""

    def __init__(self, tracer: Any, *, edge: bool) -> None:
        super().__init__()
        self._tracer, self._edge = tracer, edge
        self._trace: Any = import_module("opentelemetry.trace")
        self._context: Any = import_module("opentelemetry.context")
        module: Any = import_module("opentelemetry.trace.propagation.tracecontext")
        self._propagator = module.TraceContextTextMapPropagator()

    @property
    def _in_trace(self) -> bool:
        current = self._trace.get_current_span().get_span_context()
        return bool(current.is_valid)

    def part(self, name: str, *, asking: bool) -> AbstractContextManager[Any]:
        if not self._in_trace:
            return _OFF
        kinds = self._trace.SpanKind
        kind, told = (kinds.CLIENT, _told(name)) if asking else (kinds.INTERNAL, None)
        made = self._tracer.start_span(name, kind=kind, attributes=told)
        return self._running(made, _class_of)

    def begun(self, name: str) -> Callable[..., None] | None:
        if not self._in_trace:
            return None
        ends = [self._tracer.start_span(name).end]
        return lambda *_: ends.pop()() if ends else None

    def carried(self, metadata: Metadata) -> Metadata:
        if not self._in_trace:
            return metadata
        own: dict[str, str] = {}
        self._propagator.inject(own)
        kept = (pair for pair in metadata if pair[0] not in _FIELDS)
        return (*kept, *own.items())

    def block(self, method: str, context: Context) -> AbstractContextManager[Any]:
        told = {k: v for k, v in context.invocation_metadata() or () if k in _FIELDS}
        parent = self._propagator.extract(told, context=self._context.Context())
        root = not self._trace.get_current_span(parent).get_span_context().is_valid
        if root and (not self._edge or method.startswith(_HEALTH)):
            return _OFF
        name, kind = method.removeprefix("/"), self._trace.SpanKind.SERVER
        made = self._tracer.start_span(name, parent, kind, _told(name))

        def outcome(error: BaseException | None) -> str:
            code = code_of(context, error)
            made.set_attribute("rpc.response.status_code", code)
            return code if code in _FAULTS else ""

        return self._running(made, outcome)

    @contextmanager
    def _running(
        self, made: Any, outcome: Callable[[BaseException | None], str]
    ) -> Iterator[None]:
        """Have *made* be the current span; *outcome* names what went wrong, if so."""
        token = self._context.attach(self._trace.set_span_in_context(made))
        failed: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failed = error
            raise
        finally:
            self._context.detach(token)
            if fault := outcome(failed):
                made.set_attribute("error.type", fault)
                made.set_status(self._trace.StatusCode.ERROR)
            made.end()


def _told(method: str) -> dict[str, str]:
    # Source: OpenTelemetry, semantic conventions for gRPC
    return {"rpc.system.name": "grpc", "rpc.method": method}


def _class_of(error: BaseException | None) -> str:
    return "" if error is None else type(error).__name__


def _open(service: str, endpoint: str, every: float | None) -> tuple[Any, Any]:
    """Return what sends spans to *endpoint*, and what makes those of *service*."""
    exporters: Any
    sdk: Any
    export: Any
    resources: Any
    try:
        exporters, sdk, export, resources = map(import_module, _MODULES)
    except ImportError as error:
        hint = "pip install 'cubemesh-services[otlp]', or leave --otlp-endpoint out"
        raise FatalError("traces need OpenTelemetry", hint) from error
    named = {"service.name": service, "service.namespace": "cubemesh"}
    provider = sdk.TracerProvider(
        resource=resources.Resource.create(named), shutdown_on_exit=False
    )
    exporter = exporters.OTLPSpanExporter(endpoint=endpoint)
    delay = None if every is None else every * 1000
    processor = export.BatchSpanProcessor(exporter, schedule_delay_millis=delay)
    provider.add_span_processor(processor)
    return processor, provider.get_tracer("cubemesh")


async def _shut_down(processor: Any) -> None:
    """Have *processor* send what it has, in a thread that keeps no process alive."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        processor.shutdown()
        with suppress(RuntimeError):  # the loop is over: nobody waited so long
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, daemon=True).start()
    await done.wait()
