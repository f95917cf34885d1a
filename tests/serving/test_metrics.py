"""Calls are counted by method and code; a scrape shows them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import grpc
import pytest

from serving import ListenError, Metrics, aborting, start_metrics
from tests.serving.conftest import METHOD, STREAM, call, fails, serving_raw, stream_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Context = grpc.aio.ServicerContext[Any, Any]


def count(metrics: Metrics, method: str, code: str) -> float:
    """Return how many calls of *method* ended with *code*."""
    labels = {"method": method, "code": code}
    value = metrics.registry.get_sample_value("cubemesh_call_seconds_count", labels)
    return value or 0.0


def running(metrics: Metrics, method: str) -> float | None:
    return metrics.registry.get_sample_value(
        "cubemesh_calls_running", {"method": method}
    )


async def handle(request: bytes, context: Context) -> bytes:
    match request:
        case b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "x")
        case b"bug":
            raise KeyError
        case b"caught bug":
            async with aborting(context, {}):
                raise KeyError
    return request


async def test_counts_by_method_and_code() -> None:
    """Good, refused and failed calls are told apart."""
    metrics = Metrics()
    async with serving_raw(handle, interceptors=[metrics.calls]) as channel:
        await call(channel, b"fine")
        await call(channel, b"fine")
        for request in (b"abort", b"bug", b"caught bug"):
            await fails(channel, request)
    assert count(metrics, METHOD, "OK") == 2
    for code in ("NOT_FOUND", "UNKNOWN", "INTERNAL"):
        assert count(metrics, METHOD, code) == 1
    assert running(metrics, METHOD) == 0


async def by_generator(_: bytes, context: Context) -> AsyncIterator[bytes]:
    del context
    for each in (b"1", b"2"):
        yield each


async def by_hand(_: bytes, context: Context) -> None:
    for each in (b"1", b"2"):
        await context.write(each)


@pytest.mark.parametrize("handler", [by_generator, by_hand])
async def test_streams_pass_unchanged(handler: Any) -> None:
    """Both ways to write a stream are counted, and neither is altered."""
    metrics = Metrics()
    async with serving_raw(stream=handler, interceptors=[metrics.calls]) as channel:
        stream = stream_of(channel)
        assert [each async for each in stream] == [b"1", b"2"]
    assert count(metrics, STREAM, "OK") == 1


async def test_a_caller_who_hangs_up_is_cancelled_and_no_longer_running() -> None:
    """A running call is seen as running, and its generator is closed at the end."""
    metrics, closed = Metrics(), asyncio.Event()

    async def endless(_: bytes, context: Context) -> AsyncIterator[bytes]:
        del context
        try:
            yield b"1"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with serving_raw(stream=endless, interceptors=[metrics.calls]) as channel:
        stream = stream_of(channel)
        async with asyncio.timeout(5):
            assert await anext(aiter(stream)) == b"1"
            assert running(metrics, STREAM) == 1
            stream.cancel()
            await closed.wait()
    assert count(metrics, STREAM, "CANCELLED") == 1
    assert running(metrics, STREAM) == 0


async def test_strange_method_names_share_one_label() -> None:
    """Callers cannot fill the memory, or Prometheus, with names they make up."""
    metrics = Metrics()

    class AnyMethod(grpc.GenericRpcHandler):
        handler: Any = grpc.unary_unary_rpc_method_handler(handle)

        def service(self, details: Any) -> Any:
            del details
            return self.handler

    def prepare(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((AnyMethod(),))

    async with serving_raw(interceptors=[metrics.calls], prepare=prepare) as channel:
        for number in range(250):
            await call(channel, method=f"/x.Y/M{number}")
    assert count(metrics, "/x.Y/M0", "OK") == 1
    assert count(metrics, "other", "OK") == 50


async def test_unknown_methods_stay_unknown() -> None:
    """The count changes nothing about a method nobody serves."""
    async with serving_raw(interceptors=[Metrics().calls]) as channel:
        assert (await fails(channel)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_scrape_shows_calls_and_process() -> None:
    """The printed address answers Prometheus while calls run."""
    metrics = Metrics()
    async with serving_raw(handle, interceptors=[metrics.calls]) as channel:
        await call(channel, b"fine")
    with start_metrics("127.0.0.1:0", metrics) as address:
        text = await asyncio.to_thread(_get, f"http://{address}/metrics")
    assert f'cubemesh_call_seconds_count{{code="OK",method="{METHOD}"}} 1.0' in text
    assert "process_resident_memory_bytes" in text


def _get(url: str) -> str:
    with urlopen(url, timeout=5) as answer:  # noqa: S310 - our own server
        return str(answer.read().decode())


async def test_a_port_in_use_is_a_listen_error() -> None:
    """Two services told the same port: the second one says so."""
    with start_metrics("127.0.0.1:0", Metrics()) as address:
        with (
            pytest.raises(ListenError, match="address already in use") as caught,
            start_metrics(address, Metrics()),
        ):
            pass
        assert caught.value.hint
