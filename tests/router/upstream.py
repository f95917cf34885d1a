"""A sandbox as a forwarder sees it: a real gRPC server that does as it is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from grpc._cython.cygrpc import InternalError
from grpc.aio import EOF

from cubemesh.v1 import picod_pb2
from router._errors import RouterError, SandboxTimeoutError, SandboxUnreachableError
from router._forward import Forwarder, Limits, Method

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import NoReturn

PICOD = picod_pb2.DESCRIPTOR.services_by_name["PicoD"]
STAT, READ, EXECUTE, WRITE, INTERACT = (
    f"/cubemesh.v1.PicoD/{name}"
    for name in ("Stat", "ReadFile", "Execute", "WriteFile", "Interact")
)
PATHS = (STAT, READ, EXECUTE, WRITE, INTERACT)
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),
)


@dataclass
class Script:
    """What the upstream does with its next calls."""

    initial: tuple[tuple[str, str | bytes], ...] = ()
    trailing: tuple[tuple[str, str | bytes], ...] = ()
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    # Send the initial metadata, then wait for `go` before anything else.
    wait: bool = False
    # Wait for `go` behind the first message.
    pause: bool = False
    # End after so many messages of the caller instead of all.
    enough: int | None = None
    answers: tuple[bytes, ...] = (b"one", b"two")


@dataclass
class Upstream(grpc.GenericRpcHandler):
    """Serves every method by the script and keeps what it saw."""

    script: Script = field(default_factory=Script)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    read: list[bytes] = field(default_factory=list)
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    remaining: float | None = None
    cancelled: int = 0
    written: int = 0

    def service(self, handler_call_details: Any) -> Any:
        method = PICOD.methods_by_name.get(
            handler_call_details.method.rpartition("/")[2]
        )
        if method is None:
            return None
        match Method.of(method):
            case Method(streams_up=False, streams_down=False):
                return grpc.unary_unary_rpc_method_handler(self._unary)
            case Method(streams_up=False):
                return grpc.unary_stream_rpc_method_handler(self._down)
            case Method(streams_down=False):
                return grpc.stream_unary_rpc_method_handler(self._unary)
            case _:
                return grpc.stream_stream_rpc_method_handler(self._down)

    async def _unary(self, request: Any, context: Any) -> bytes:
        await self._start(request, context)
        return b"".join(self.script.answers)

    async def _down(self, request: Any, context: Any) -> None:
        await self._start(request, context)
        for answer in self.script.answers:
            try:
                await context.write(answer)
            except InternalError:  # the caller left
                return
            self.written += 1
            if self.script.pause:
                await self.go.wait()

    async def _start(self, request: Any, context: Any) -> None:
        self.entered.set()
        self.metadata = dict(context.invocation_metadata())
        self.remaining = context.time_remaining()
        try:
            if self.script.initial or self.script.wait:
                await context.send_initial_metadata(self.script.initial)
            if self.script.wait:
                await self.go.wait()
            await self._take(request, context)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.left.set()
        await self._end(context)

    async def _take(self, request: Any, context: Any) -> None:
        if isinstance(request, bytes):
            self.read.append(request)
            return
        while len(self.read) != self.script.enough:
            if (raw := await context.read()) is EOF:
                return
            self.read.append(raw)

    async def _end(self, context: Any) -> None:
        if self.script.trailing:
            context.set_trailing_metadata(self.script.trailing)
        if self.script.code is not grpc.StatusCode.OK:
            await context.abort(
                self.script.code, self.script.details, self.script.trailing
            )


class Pass:
    """A passage to the upstream for whoever asks."""

    def __init__(self, channel: grpc.aio.Channel, method: Method) -> None:
        factory = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }[method.streams_up, method.streams_down]
        self.start: Any = factory(method.path)
        self.metadata: tuple[tuple[str, str | bytes], ...] = (("x-ours", "1"),)
        self.news: tuple[tuple[str, str | bytes], ...] = ()
        self.told = False
        self.code = grpc.StatusCode.CANCELLED
        self.closed = 0
        self.gone = asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        self.task = task

    async def explain(self, code: grpc.StatusCode, _: str) -> RouterError | None:
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return SandboxTimeoutError("too slow")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return SandboxUnreachableError("cannot be reached")
        return None

    def close(self) -> None:
        self.closed += 1
        self.gone.set()


async def refuse(context: Any, error: RouterError) -> NoReturn:
    """End the call so that a test sees which error it was."""
    await context.abort(grpc.StatusCode.ABORTED, type(error).__name__)
    raise AssertionError


@dataclass
class Hop:
    """An upstream, a forwarder before it, and a channel to each."""

    upstream: Upstream
    server: grpc.aio.Server
    direct: grpc.aio.Channel
    onward: grpc.aio.Channel
    front: grpc.aio.Channel
    passes: list[Pass]
    news: tuple[tuple[str, str | bytes], ...] = ()
    refusal: RouterError | None = None

    def via(self, *, forwarded: bool) -> grpc.aio.Channel:
        return self.front if forwarded else self.direct


async def serve(handler: grpc.GenericRpcHandler) -> tuple[grpc.aio.Server, str]:
    """Serve *handler* on a free port of this host."""
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


@asynccontextmanager
async def hop(
    *, limits: Limits | None = None, unknown: bool = False
) -> AsyncIterator[Hop]:
    """Run upstream and forwarder, each on a port of its own."""
    upstream = Upstream()
    server, address = await serve(upstream)
    direct, onward = (
        grpc.aio.insecure_channel(address, options=OPTIONS) for _ in range(2)
    )
    made: list[Hop] = []

    async def admit(method: Method, _: Any) -> Pass:
        if made[0].refusal is not None:
            raise made[0].refusal
        granted = Pass(onward, method)
        granted.news = made[0].news
        made[0].passes.append(granted)
        return granted

    forwarder = Forwarder(
        PICOD, admit=admit, refuse=refuse, limits=limits or Limits(), unknown=unknown
    )
    router, door = await serve(forwarder)
    front = grpc.aio.insecure_channel(door, options=OPTIONS)
    made.append(Hop(upstream, server, direct, onward, front, []))
    try:
        async with asyncio.timeout(20):
            yield made[0]
    finally:
        for channel in (front, onward, direct):
            await channel.close()
        await router.stop(None)
        await server.stop(None)
