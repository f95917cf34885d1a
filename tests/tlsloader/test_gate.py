"""Whom the gate lets through, and that every call gets a status."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from tests.tlsloader.transport import until
from tlsloader import PeerRefusedError
from tlsloader.grpc import (
    CALLER,
    CHANNEL_OPTIONS,
    FRONT_SERVER_OPTIONS,
    SERVER_OPTIONS,
    Gate,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Code = grpc.StatusCode
SHAPES = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


def parse(raw: bytes) -> bytes:
    if raw == b"broken":
        raise ValueError("secret: where the parser stumbled")
    return raw


class Methods:
    """One handler in each of the four shapes; what it does is *act*."""

    def __init__(self, act: Callable[[bytes, Any], Any]) -> None:
        self._act = act
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.calls = 0

    async def _run(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        self.begun.set()
        try:
            answer: Any = self._act(request, context)
            done: bytes = await answer if asyncio.iscoroutine(answer) else answer
            return done
        finally:
            self.ended.set()

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        return await self._run(request, context)

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await self._run(request, context)

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await self._run(await anext(requests), context)

    async def stream_stream(
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self._run(request, context)

    def handlers(self) -> grpc.GenericRpcHandler:
        makers: Any = {shape: f"{shape}_rpc_method_handler" for shape in SHAPES}
        return grpc.method_handlers_generic_handler(
            "test.Shapes",
            {
                shape: getattr(grpc, maker)(
                    getattr(self, shape), request_deserializer=parse
                )
                for shape, maker in makers.items()
            },
        )


@asynccontextmanager
async def gated(
    gate: Gate, act: Callable[[bytes, Any], Any]
) -> AsyncIterator[tuple[grpc.aio.Channel, Methods]]:
    """Run the four shapes behind *gate*."""
    server = grpc.aio.server(interceptors=[gate], options=SERVER_OPTIONS)
    methods = Methods(act)
    server.add_generic_rpc_handlers((methods.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    opened = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS)
    try:
        yield opened, methods
    finally:
        await opened.close()
        await server.stop(0)


async def silence() -> AsyncIterator[bytes]:
    """Begin a call and say nothing.

    A write under way when a call is ended early would hide the status: gRPC makes
    it INTERNAL.
    """
    await asyncio.Event().wait()
    yield b""


async def ask(
    opened: grpc.aio.Channel, shape: str, message: bytes | None = b"hello"
) -> list[bytes]:
    """Call the method of *shape* and return its answers."""
    method: Any = getattr(opened, shape)(f"/test.Shapes/{shape}")
    asks, gives = shape.split("_")
    request: Any = message
    if asks == "stream":
        request = iter([message]) if message else silence()
    call = method(request, timeout=10)
    if gives == "stream":
        return [answer async for answer in call]
    return [await call]


async def failure(
    opened: grpc.aio.Channel, shape: str, message: bytes | None = b"x"
) -> Any:
    """Call the method of *shape*, which must fail; return (code, details)."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(opened, shape, message)
    return caught.value.code(), caught.value.details()


def anyone(_method: str, _context: Any) -> str:
    return "somebody"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("later", [False, True], ids=["plain", "coroutine"])
async def test_the_handler_learns_who_calls(shape: str, *, later: bool) -> None:
    """What `decide` returns, at once or later, is the caller in every shape."""
    asked: list[str] = []

    def decide(method: str, _context: Any) -> Any:
        asked.append(method)

        async def slowly() -> str:
            await asyncio.sleep(0)  # noqa: TID251 -- one turn of the loop
            return "me"

        return slowly() if later else "me"

    async with gated(Gate(decide), lambda *_: CALLER.get().encode()) as (opened, _):
        assert await ask(opened, shape) == [b"me"]
    assert asked == [f"/test.Shapes/{shape}"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("not_admitted", Code.PERMISSION_DENIED),
        ("no_certificate", Code.UNAUTHENTICATED),
        ("no_token", Code.UNAUTHENTICATED),
    ],
)
async def test_a_denied_call_reaches_no_handler(
    shape: str, reason: str, code: grpc.StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller reads "denied"; the reason is in our log, and nowhere else."""

    def decide(_method: str, _context: Any) -> None:
        raise PeerRefusedError(reason, "the secret why")

    async with gated(Gate(decide), lambda *_: b"") as (opened, methods):
        # Not even the parser sees what a stranger sent
        message = None if shape.startswith("stream") else b"broken"
        assert await failure(opened, shape, message) == (code, "denied")
        assert methods.calls == 0
    record = next(vars(each) for each in caplog.records)
    assert record["message"] == "call refused"
    assert (record["reason"], record["detail"]) == (reason, "the secret why")


async def test_a_decision_that_breaks_lets_nobody_in() -> None:
    """A fault in `decide` is ours, and still no call passes."""

    def decide(_method: str, _context: Any) -> None:
        raise KeyError("secret")

    async with gated(Gate(decide), lambda *_: b"") as (opened, methods):
        assert await failure(opened, "unary_unary") == (
            Code.INTERNAL,
            "internal error",
        )
        assert methods.calls == 0


@pytest.mark.parametrize("words", ["abort", "forget"])
async def test_a_refusal_in_other_words_is_still_one(words: str) -> None:
    """The callback words it; one that forgets to end the call does not open it."""

    async def refused(context: Any, code: grpc.StatusCode) -> None:
        if words == "abort":
            await context.abort(code, "no, sorry")

    def decide(_method: str, _context: Any) -> None:
        raise PeerRefusedError("not_admitted", "why")

    gate = Gate(decide, refused=refused)
    async with gated(gate, lambda *_: b"") as (opened, methods):
        _, details = await failure(opened, "unary_unary")
        assert details == ("no, sorry" if words == "abort" else "denied")
        assert methods.calls == 0


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_exception_tells_the_caller_nothing(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its text stays in our log; gRPC alone would send it."""

    def act(_request: bytes, _context: Any) -> bytes:
        raise KeyError("secret")

    async with gated(Gate(anyone), act) as (opened, _):
        assert await failure(opened, shape) == (Code.INTERNAL, "internal error")
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert [each.name for each in errors] == ["tlsloader._gate"]
    assert errors[0].exc_info


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_status_of_the_handlers_own_passes(shape: str) -> None:
    """What a handler aborts with is what the caller gets."""

    async def act(_request: bytes, context: Any) -> bytes:
        await context.abort(Code.NOT_FOUND, "no such thing")
        raise AssertionError

    async with gated(Gate(anyone), act) as (opened, _):
        assert await failure(opened, shape) == (Code.NOT_FOUND, "no such thing")


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_cancelled_wait_leaves_no_caller_hanging(shape: str) -> None:
    """A call that the handler waited for was cancelled: ours still gets an answer."""

    async def act(_request: bytes, _context: Any) -> bytes:
        raise asyncio.CancelledError

    async with gated(Gate(anyone), act) as (opened, _):
        assert await failure(opened, shape) == (Code.INTERNAL, "internal error")


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stopped_handler_leaves_no_caller_hanging(shape: str) -> None:
    """Somebody cancelled the handler's task: the caller may try again elsewhere."""

    async def act(_request: bytes, _context: Any) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()
        raise AssertionError

    async with gated(Gate(anyone), act) as (opened, _):
        assert await failure(opened, shape) == (
            Code.UNAVAILABLE,
            "the call was stopped",
        )


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_caller_that_hangs_up_ends_the_handler(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The work is stopped, and nothing is logged as a fault."""

    async def act(_request: bytes, _context: Any) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async with gated(Gate(anyone), act) as (opened, methods):
        asking = asyncio.ensure_future(ask(opened, shape))
        await methods.begun.wait()
        asking.cancel()
        await until(methods.ended.is_set, 2)
        # The loop turns a few times more before the call is over
        await ask_again(opened)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def ask_again(opened: grpc.aio.Channel) -> None:
    method: Any = opened.unary_unary("/test.Shapes/none")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"", timeout=10)
    assert caught.value.code() is Code.UNIMPLEMENTED


async def test_a_generator_is_closed_when_its_caller_leaves() -> None:
    """Its `finally` runs at once, not when memory is collected."""
    ended = asyncio.Event()

    class Endless(Methods):
        async def unary_stream(
            self, request: bytes, _context: Any
        ) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield request
            finally:
                ended.set()

    gate, server = Gate(anyone), None
    server = grpc.aio.server(interceptors=[gate])
    server.add_generic_rpc_handlers((Endless(lambda *_: b"").handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
            method: Any = opened.unary_stream("/test.Shapes/unary_stream")
            call = method(b"x")
            assert await call.read() == b"x"
            call.cancel()
            await until(ended.is_set, 2)
    finally:
        await server.stop(0)


async def test_readers_and_writers_work_like_generators() -> None:
    """A streaming handler may write to its context instead of yielding."""

    class Writing(Methods):
        async def stream_stream(self, _requests: Any, context: Any) -> None:  # type: ignore[override]
            while (request := await context.read()) is not grpc.aio.EOF:
                await context.write(request + b"!")

    server = grpc.aio.server(interceptors=[Gate(anyone)])
    server.add_generic_rpc_handlers((Writing(lambda *_: b"").handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
            assert await ask(opened, "stream_stream") == [b"hello!"]
    finally:
        await server.stop(0)


async def test_no_answer_is_not_an_empty_answer() -> None:
    """A handler that returns None did not mean an empty message."""
    async with gated(Gate(anyone), lambda *_: None) as (opened, _):
        assert await failure(opened, "unary_unary") == (
            Code.INTERNAL,
            "internal error",
        )


@pytest.mark.parametrize("shape", ["unary_unary", "unary_stream"])
async def test_bytes_that_are_no_message_are_the_callers_fault(shape: str) -> None:
    """And what the parser said stays here."""
    async with gated(Gate(anyone), lambda *_: b"") as (opened, methods):
        code, details = await failure(opened, shape, b"broken")
        assert code is Code.INVALID_ARGUMENT
        assert "secret" not in details
        assert methods.calls == 0


async def test_each_method_is_wrapped_once() -> None:
    """And names that callers invent do not fill the memory."""
    gate = Gate(anyone)

    class Every(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> Any:
            async def answer(request: bytes, _context: Any) -> bytes:
                return request

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server(interceptors=[gate])
    server.add_generic_rpc_handlers((Every(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
            for _ in range(2):
                assert await opened.unary_unary("/a/b")(b"x") == b"x"  # type: ignore[arg-type]
            handler = gate._handlers["/a/b"]
            assert await opened.unary_unary("/a/b")(b"x") == b"x"  # type: ignore[arg-type]
            assert gate._handlers["/a/b"] is handler
            for number in range(1100):
                gate._remember(f"/a/{number}", handler)
        assert len(gate._handlers) == 1024
    finally:
        await server.stop(0)


def test_the_options_that_the_mesh_rests_on() -> None:
    """No window growth, no proxy, no shared port, alike limits for metadata."""
    for options in (CHANNEL_OPTIONS, SERVER_OPTIONS, FRONT_SERVER_OPTIONS):
        chosen = dict(options)
        assert chosen["grpc.http2.bdp_probe"] == 0
        soft = chosen["grpc.max_metadata_size"]
        assert soft == chosen["grpc.absolute_max_metadata_size"]
    assert dict(CHANNEL_OPTIONS)["grpc.enable_http_proxy"] == 0
    # It bounds a whole attempt to connect, dial included
    assert "grpc.min_reconnect_backoff_ms" not in dict(CHANNEL_OPTIONS)
    assert dict(SERVER_OPTIONS)["grpc.so_reuseport"] == 0
    front = dict(FRONT_SERVER_OPTIONS)["grpc.max_metadata_size"]
    assert front < dict(SERVER_OPTIONS)["grpc.max_metadata_size"]
