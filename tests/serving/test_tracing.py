"""Traces are told when somebody listens; otherwise nothing is loaded or done."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from benchmarks._collector import Collector, Span, collector
from serving import FatalError, begun, carried, span, tracing
from tests.serving.conftest import METHOD, call, fails, serving_raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Context = grpc.aio.ServicerContext[Any, Any]

pytestmark = pytest.mark.slow

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = ("traceparent", f"00-{TRACE}-{CALLER}-01")
NAME = METHOD.removeprefix("/")


@pytest.fixture
async def listener() -> AsyncIterator[Collector]:
    async with collector() as opened:
        yield opened


async def handle(request: bytes, context: Context) -> bytes:
    """Do a part of the work by ourselves, and ask somebody for the rest."""
    if request == b"refuse":
        await context.abort(grpc.StatusCode.UNAVAILABLE, "secret")
    later = begun("later")
    with span("part"):
        passed = dict(carried((PARENT, ("x-other", "1"))))
        seen = f"{passed['traceparent']!s} {passed['x-other']!s}"
    with span("pkg.Other/Ask", asking=True):
        pass
    if later is not None:
        later()
        later()
    return seen.encode()


async def traced(channel: grpc.aio.Channel, request: bytes = b"") -> bytes:
    """Call as a part of `TRACE`."""
    stub: Any = channel.unary_unary(METHOD)
    response: bytes = await stub(request, timeout=5, metadata=(PARENT,))
    return response


def by_name(spans: list[Span]) -> dict[str, Span]:
    return {each.name: each for each in spans}


@pytest.mark.parametrize(
    "module", ["cubemesh._sandbox", "picod.__main__", "router.__main__"]
)
def test_who_does_not_trace_loads_nothing(module: str) -> None:
    """Neither the SDK nor a service pays for OpenTelemetry at its start."""
    code = f"import {module}, sys; print([m for m in sys.modules if 'telemetry' in m])"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_nothing_happens_while_nobody_listens() -> None:
    """A server gets no interceptor, and metadata pass as they are."""
    async with tracing("test", None), serving_raw(handle) as channel:
        assert await traced(channel) == f"{PARENT[1]} 1".encode()
    assert begun("anything") is None


async def test_a_call_of_a_trace_is_told_with_its_parts(listener: Collector) -> None:
    """Each span knows its parent, and who is asked hears of the span that asks."""
    async with tracing("test", listener.endpoint), serving_raw(handle) as channel:
        answer = await traced(channel)
    spans = by_name(await listener.until(lambda spans: len(spans) == 4))
    served = spans[NAME]
    assert (served.trace, served.parent, served.service) == (TRACE, CALLER, "test")
    assert served.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": NAME,
        "rpc.response.status_code": "OK",
    }
    for name in ("part", "later", "pkg.Other/Ask"):
        assert spans[name].parent == served.id
        assert served.began <= spans[name].began <= spans[name].ended <= served.ended
    assert answer == f"00-{TRACE}-{spans['part'].id}-01 1".encode()


async def test_only_the_edge_begins_traces(listener: Collector) -> None:
    """Within the mesh a call that is part of no trace has no span."""
    for edge, names in ((False, []), (True, [NAME])):
        traces = tracing("test", listener.endpoint, edge=edge)
        async with traces, serving_raw(handle) as channel:
            await call(channel)
        assert [each.name for each in listener.spans if not each.parent] == names


async def test_a_failure_is_told_without_its_words(listener: Collector) -> None:
    """The code of the status, and nothing that a caller or an error says."""
    traces = tracing("test", listener.endpoint, edge=True)
    async with traces, serving_raw(handle) as channel:
        await fails(channel, b"refuse")
    (refused,) = listener.spans
    assert refused.attributes["error.type"] == "UNAVAILABLE"
    assert "secret" not in str(refused)


async def test_spans_outside_of_calls_are_none(listener: Collector) -> None:
    """What a service does by itself is in no trace."""
    async with tracing("test", listener.endpoint, edge=True):
        with span("alone"):
            assert carried((PARENT,)) == (PARENT,)
        assert begun("alone") is None
    assert not listener.spans


async def test_a_collector_that_is_silent_holds_nobody_up() -> None:
    """The end of a service waits a second for its last spans, and no longer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with tracing("test", endpoint, edge=True):
            async with serving_raw(handle) as channel:
                await call(channel)
            left = time.monotonic()
        assert time.monotonic() - left < 5


async def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for traces without OpenTelemetry is told what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(FatalError, match="OpenTelemetry") as caught:
        async with tracing("test", "http://127.0.0.1:1"):
            raise AssertionError
    assert "cubemesh-services[otlp]" in caught.value.hint
