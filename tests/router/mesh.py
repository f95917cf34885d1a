"""A Router between fakes: a WorkloadManager and one sandbox, on real sockets."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from auth import Principal
from cubemesh.v1 import picod_pb2, router_pb2
from cubemesh.v1 import workloadmanager_pb2_grpc as wm_grpc
from router._admission import Load
from router._callers import Caller
from router._errors import SandboxUnreachableError
from router._forward import Limits
from router._house import House
from router._ways import ByCertificate, Line
from tests.fakes import FakeClock, until
from tests.router.manager import ALICE, BOB, FakeManager
from tests.router.upstream import OPTIONS, Upstream
from tlsloader.grpc import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from router._sessions import Door

__all__ = [
    "METHODS",
    "SANDBOX",
    "SESSION",
    "Mesh",
    "error_of",
    "mesh",
    "retry_of",
    "send",
]

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for service in (
        picod_pb2.DESCRIPTOR.services_by_name["PicoD"],
        router_pb2.DESCRIPTOR.services_by_name["Sessions"],
    )
    for method in service.methods
}

SESSION = "x-agentcube-session-id"
SANDBOX = "spiffe://sandbox.cluster.local/ns/agentcube-system/sandbox/sbx-1"


class PlainWay(ByCertificate):
    """Introduces callers as with certificates, over a bare socket."""

    def __init__(self) -> None:
        self.lines = 0
        self.closed = asyncio.Event()
        self.broken = False

    async def connect(self, door: Door) -> Line:
        """Open a channel straight to the address."""
        self.lines += 1
        if self.broken:
            raise SandboxUnreachableError("the sandbox cannot be reached")

        async def close() -> None:
            self.closed.set()

        return Line(door.address, close)


@dataclass
class Mesh:
    """All parts of one test's mesh."""

    house: House
    manager: FakeManager
    sandbox: Upstream
    clock: FakeClock
    way: PlainWay
    front: grpc.aio.Channel
    callers: dict[str, Caller] = field(default_factory=dict)

    def call(self, path: str, who: str = "alice", **metadata: Any) -> Any:
        """Start a call of *path* with one message, as *who*."""
        told = [(key.replace("_", "-"), value) for key, value in metadata.items()]
        return send(self.front, path, metadata=[("x-who", who), *told])

    async def ask(
        self, path: str, session: str = "", who: str = "alice", **more: Any
    ) -> Any:
        """Make a unary call in *session* and return its answer."""
        named = {"x_agentcube_session_id": session} if session else {}
        return await self.call(path, who, **named, **more)


def send(channel: grpc.aio.Channel, path: str, **options: Any) -> Any:
    """Start a call of the method's own shape with one empty message."""
    method = METHODS[path]
    kind = "_".join(
        "stream" if many else "unary"
        for many in (method.client_streaming, method.server_streaming)
    )
    request = iter((b"",)) if method.client_streaming else b""
    return getattr(channel, kind)(path)(request, **options)


async def error_of(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Return code, reason and metadata of a call's failure."""
    if hasattr(call, "__aiter__"):
        with suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
    info = ErrorInfo()
    for detail in (await _status(call)).details:
        detail.Unpack(info)
    return await call.code(), info.reason, dict(info.metadata)


async def retry_of(call: Any) -> float | None:
    """Return after how many seconds the failed call may be tried again."""
    retry = RetryInfo()
    for detail in (await _status(call)).details:
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
    return None


async def _status(call: Any) -> Status:
    status = Status()
    for key, value in await call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    return status


@asynccontextmanager
async def mesh(
    folder: Path,
    *,
    load: Load | None = None,
    limits: Limits | None = None,
    ahead: int = 0,
) -> AsyncIterator[Mesh]:
    """Run a Router between its fakes; callers are named by ``x-who``."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(20))
        sandbox = Upstream()
        address = await _serve(stack, f"unix:{folder}/sandbox", sandbox)
        manager = FakeManager(address=address, spiffe_id=SANDBOX)
        target = await _serve(stack, f"unix:{folder}/manager", manager)
        clock, way = FakeClock(), PlainWay()
        channel = await _channel(stack, target)
        house = House(channel, way, load or Load(100, 10), clock, ahead)
        callers = {
            "alice": Caller(ALICE, admin=False),
            "bob": Caller(BOB, admin=False),
            "admin": Caller(Principal("spiffe://x", "spiffe://x/admin"), admin=True),
        }

        def decide(_: str, context: Any) -> Caller:
            return callers[dict(context.invocation_metadata())["x-who"]]

        server = grpc.aio.server(interceptors=[Gate(decide)], options=OPTIONS)
        house.add_to(server, limits or Limits())
        front = await _listen(stack, server, f"unix:{folder}/front")
        for job in house.jobs():
            stack.push_async_callback(_ended, _task(job))
        await until(lambda: house.watch.revision)
        yield Mesh(
            house, manager, sandbox, clock, way, await _channel(stack, front), callers
        )


async def _serve(stack: AsyncExitStack, address: str, handler: Any) -> str:
    server = grpc.aio.server(options=OPTIONS)
    if isinstance(handler, FakeManager):
        wm_grpc.add_WorkloadManagerServicer_to_server(handler, server)
    else:
        server.add_generic_rpc_handlers((handler,))
    return await _listen(stack, server, address)


async def _listen(stack: AsyncExitStack, server: grpc.aio.Server, address: str) -> str:
    server.add_insecure_port(address)
    await server.start()
    stack.push_async_callback(server.stop, None)
    return address


async def _channel(stack: AsyncExitStack, target: str) -> grpc.aio.Channel:
    channel = grpc.aio.insecure_channel(target, options=OPTIONS)
    stack.push_async_callback(channel.close)
    return channel


def _task(job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(job)  # noqa: TID251 - ended with the mesh


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
