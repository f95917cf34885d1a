"""A small mesh for the transport's tests: a server behind its door, and ways to it."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from tests.forge import Forge
from tlsloader import Acceptor, Allowlist, Dialer, Material, SpiffeID
from tlsloader.grpc import CALLER, SERVER_OPTIONS, Gate, channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.forge import Svid

ROUTER = "spiffe://cluster.local/ns/agentcube/sa/router"
PICOD = "spiffe://cluster.local/ns/agentcube/sa/picod"
STRANGER = "spiffe://cluster.local/ns/agentcube/sa/stranger"

SETTINGS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(
    (0, 0, 0, SETTINGS, 0, 0, 0, 0, 0)
)


class RotatingSource:
    """A source that publishes what a test gives it."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self.callbacks: list[Callable[[Material], None]] = []

    def current(self) -> Material:
        return self._material

    def subscribe(self, callback: Callable[[Material], None]) -> Callable[[], None]:
        self.callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self.callbacks:
                self.callbacks.remove(callback)

        return unsubscribe

    def publish(self, material: Material) -> None:
        self._material = material
        for callback in tuple(self.callbacks):
            callback(material)


class Service:
    """Methods of every cardinality; messages are bytes."""

    def __init__(self) -> None:
        self.calls = 0
        self.sent = 0
        self.waiting = 0
        self.running = 0
        """How many handlers of streams, and of `wait`, have not ended."""
        self.stubborn = False
        """Whether handlers that are cancelled take a while."""
        self.angry = False
        """Whether handlers that are cancelled raise something else."""
        self.ended = asyncio.Event()
        self.asked = 0
        """Bytes of the request that `late` has read to its end."""
        self.go = asyncio.Event()
        """Lets `late` answer."""

    @asynccontextmanager
    async def _runs(self) -> AsyncIterator[None]:
        self.calls += 1
        self.running += 1
        try:
            yield
        finally:
            if self.angry:
                raise RuntimeError("secret")
            if self.stubborn:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(3)  # noqa: TID251 -- a bad handler does
            self.running -= 1
            self.ended.set()

    async def wait(self, _request: bytes, _context: Any) -> bytes:
        """Answer never."""
        async with self._runs():
            self.waiting += 1
            await asyncio.Event().wait()
        raise AssertionError

    async def echo(self, request: bytes, _context: Any) -> bytes:
        self.calls += 1
        return request

    async def caller(self, _request: bytes, _context: Any) -> bytes:
        self.calls += 1
        peer = CALLER.get()
        return str(peer.id if peer else None).encode()

    async def down(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Send as many chunks of 64 KiB as asked for; 0: without end."""
        left, chunk = int(request), bytes(65536)
        async with self._runs():
            while not int(request) or left:
                left -= 1
                yield chunk
                self.sent += 1

    async def both(
        self, requests: AsyncIterator[bytes], _context: Any
    ) -> AsyncIterator[bytes]:
        async with self._runs():
            async for request in requests:
                yield request

    async def up(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        total = 0
        async with self._runs():
            async for request in requests:
                total += len(request)
        return str(total).encode()

    async def late(
        self, requests: AsyncIterator[bytes], _context: Any
    ) -> AsyncIterator[bytes]:
        """Answer only when the request is over, and when the test says so."""
        async with self._runs():
            self.asked = sum([len(request) async for request in requests])
            await self.go.wait()
            for number in range(3):
                yield str(number).encode()

    async def deaf(self, _requests: AsyncIterator[bytes], _context: Any) -> bytes:
        """Read nothing, and answer never."""
        return await self.wait(b"", None)

    async def curt(
        self, _requests: AsyncIterator[bytes], _context: Any
    ) -> AsyncIterator[bytes]:
        """Answer without having read anything."""
        yield b"no"

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "test.Service",
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
                "Caller": grpc.unary_unary_rpc_method_handler(self.caller),
                "Down": grpc.unary_stream_rpc_method_handler(self.down),
                "Both": grpc.stream_stream_rpc_method_handler(self.both),
                "Up": grpc.stream_unary_rpc_method_handler(self.up),
                "Late": grpc.stream_stream_rpc_method_handler(self.late),
                "Deaf": grpc.stream_unary_rpc_method_handler(self.deaf),
                "Curt": grpc.stream_stream_rpc_method_handler(self.curt),
                "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            },
        )


class Hosted:
    """What `hosted` yields."""

    def __init__(self, acceptor: Acceptor, gate: Gate, source: Any) -> None:
        self.acceptor = acceptor
        self.gate = gate
        self.source = source
        self.service = Service()
        self.address = ""


@asynccontextmanager
async def hosted(
    source: Any,
    *,
    allow: str = ROUTER,
    listen: str = "127.0.0.1:0",
    **options: Any,
) -> AsyncIterator[Hosted]:
    """Run the test service behind an acceptor."""
    acceptor = Acceptor(source, allow=Allowlist.parse(*allow.split(",")), **options)
    gate = Gate(lambda _method, context: acceptor.peer(context.peer()), door=acceptor)
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[gate])
    node = Hosted(acceptor, gate, source)
    server.add_generic_rpc_handlers((node.service.handlers(),))
    server.add_insecure_port(acceptor.backend)
    try:
        await server.start()
        node.address = await acceptor.start(listen)
        yield node
    finally:
        await acceptor.aclose()
        await server.stop(0)


async def call(
    opened: grpc.aio.Channel, method: str = "Echo", message: bytes = b"hello"
) -> bytes:
    """Call a unary method of the test service."""
    multicallable: Any = opened.unary_unary(f"/test.Service/{method}")
    answer: bytes = await multicallable(message, timeout=20)
    return answer


class Way:
    """A channel through a dialer, as `way` yields it."""

    def __init__(self, dialer: Dialer, target: str) -> None:
        self.dialer = dialer
        self.target = target
        self.channel = channel(target)

    async def call(self, method: str = "Echo", message: bytes = b"hello") -> bytes:
        return await call(self.channel, method, message)

    def down(self, chunks: int) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
        method: Any = self.channel.unary_stream("/test.Service/Down")
        call: grpc.aio.UnaryStreamCall[bytes, bytes] = method(
            str(chunks).encode(), timeout=60
        )
        return call

    def both(self) -> grpc.aio.StreamStreamCall[bytes, bytes]:
        method: Any = self.channel.stream_stream("/test.Service/Both")
        call: grpc.aio.StreamStreamCall[bytes, bytes] = method(timeout=60)
        return call

    async def served(self, within: float = 5) -> float:
        """Call until a call is served; return the seconds that it took."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.timeout(within):
            while True:
                try:
                    await self.call()
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                else:
                    return loop.time() - start

    async def refused(self, details: str, within: float = 5) -> None:
        """Call until a call fails with *details*."""
        async with asyncio.timeout(within):
            while True:
                try:
                    await self.call()
                except grpc.aio.AioRpcError as error:
                    if details in (error.details() or ""):
                        return

    async def refusal(self) -> grpc.aio.AioRpcError:
        """Call once; it must fail."""
        try:
            await self.call()
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the call was served")


@asynccontextmanager
async def way(
    source: Any, address: str, *, expected: str = PICOD, **options: Any
) -> AsyncIterator[Way]:
    """Open a channel to *address* through a dialer."""
    identity = SpiffeID.parse(expected)
    dialer = Dialer(source, expected=identity, address=address, **options)
    out = Way(dialer, await dialer.start())
    try:
        yield out
    finally:
        await out.channel.close()
        await dialer.aclose()


class Mesh:
    """One authority, a server and a way to it, each with its own source."""

    def __init__(self, forge: Forge, node: Hosted, out: Way, source: Any) -> None:
        self.forge = forge
        self.node = node
        self.way = out
        self.source = source
        self.generation = 1

    def rotate(self) -> None:
        """Give both sides a new key and leaf."""
        self.generation += 1
        for identity, source in (PICOD, self.node.source), (ROUTER, self.source):
            source.publish(self.forge.material(identity, generation=self.generation))


@asynccontextmanager
async def mesh(**options: Any) -> AsyncIterator[Mesh]:
    """Run a server and a way to it under one authority; *options*: `hosted`."""
    forge = Forge()
    mine = RotatingSource(forge.material(ROUTER))
    theirs = RotatingSource(forge.material(PICOD))
    async with (
        hosted(theirs, **options) as node,
        way(mine, node.address) as out,
    ):
        yield Mesh(forge, node, out, mine)


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Return once *condition* holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- of things that have no event
            await asyncio.sleep(0.005)  # noqa: TID251 -- bounded above


async def settled(count: Callable[[], int]) -> None:
    """Return once *count* has not changed for a third of a second."""
    last = count()
    try:
        while True:
            await until(lambda: count() > last, 0.3)  # noqa: B023 -- meant so
            last = count()
    except TimeoutError:
        return


def tls(svid: Svid | None = None, version: str = "") -> ssl.SSLContext:
    """Make the context of a careless client that shows *svid*.

    *version*, ``1.2`` or ``1.3``, is the only one it speaks.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    speak_only(context, version)
    if svid is not None:
        show(context, svid)
    return context


def show(context: ssl.SSLContext, svid: Svid) -> None:
    """Have *context* present *svid*."""
    with os.fdopen(os.memfd_create("svid"), "wb", buffering=0) as file:
        file.write(svid.key + svid.chain)
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")


def speak_only(context: ssl.SSLContext, version: str) -> None:
    """Let *context* speak one *version* of TLS; an empty one leaves the choice."""
    if version:
        found = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        context.minimum_version = context.maximum_version = found


async def knock(
    address: str, context: ssl.SSLContext | None, say: bytes = PREFACE
) -> bytes:
    """Connect, speak first, and return all that is answered before the end.

    A door that lets us in does not end: its first answer is returned.
    """
    host, _, port = address.rpartition(":")
    how: dict[str, Any] = {"ssl": context, "server_hostname": "x"} if context else {}
    answer = b""
    with suppress(OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(host, int(port), **how)
            try:
                writer.write(say)
                answer = await reader.read(65536)
            finally:
                writer.transport.abort()
    return answer
