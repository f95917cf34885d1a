"""What proving who is who costs, beside gRPC's own TLS."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks._case import At, case
from benchmarks._series import ROUNDS, Series
from benchmarks._tls import (
    CALL,
    CLIENT,
    SERVER,
    call,
    connected,
    files,
    handler,
    identities,
    own,
    same,
)
from clock import SYSTEM
from tlsloader import Acceptor, Allowlist, FileSource, Material, recheck, verify_peer
from tlsloader.grpc import SERVER_OPTIONS, Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from benchmarks._case import Measured

__all__: list[str] = []

_US: Final = 1e6
_MS: Final = 1e3
_GATED: Final = 2000


def _timed(act: Callable[[], object], times: int, unit: float) -> Series:
    """Return the processor time that one of so many *times* takes, by rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(times):
            act()
        rounds.append([(time.thread_time() - began) / times * unit])
    return Series("us" if unit == _US else "ms", "lower", rounds)


@case("identity/judge", depth="quick")
async def judge(at: At) -> Measured:
    """Judge a new peer, judge it again on a call, load our own identity from files."""
    del at
    with identities() as folder:
        paths, now = files(folder, CLIENT), SYSTEM.now()
        own = await asyncio.to_thread(Material.load, paths, now=now)
        allow = Allowlist.parse(str(CLIENT))
        leaves = x509.load_pem_x509_certificates(own.chain)
        chain = tuple(leaf.public_bytes(Encoding.DER) for leaf in leaves)
        how: Any = {"bundles": own.bundles, "allow": allow, "now": now}
        peer = verify_peer(chain, **how)
        return {
            "verify": _timed(lambda: verify_peer(chain, **how), 100, _MS),
            "recheck": _timed(lambda: recheck(peer, **how), 5000, _US),
            "load": _timed(lambda: Material.load(paths, now=now), 25, _MS),
        }


@case("identity/gate", depth="quick")
async def gate(at: At) -> Measured:
    """Pass the gate on a proven connection, again and again within one call."""
    del at
    rounds: list[list[float]] = []
    with identities() as folder:
        source = await FileSource.load(files(folder, SERVER))
        acceptor = Acceptor(source, allow=Allowlist.parse(str(CLIENT)))
        gated = await _gated(Gate(lambda _, context: acceptor.peer(context.peer())))

        async def measure(request: bytes, context: Any) -> bytes:
            for _ in range(ROUNDS):
                through = await _per_call(gated, request, context)
                rounds.append([through - await _per_call(same, request, context)])
            return b""

        async with _served(acceptor, measure, folder) as opened:
            await call(opened)
    return {"gate": Series("us", "lower", rounds)}


async def _gated(gate: Gate) -> Callable[[bytes, Any], Awaitable[Any]]:
    """Return an echo behind *gate*."""
    plain: Any = grpc.unary_unary_rpc_method_handler(same)

    async def found(_: object) -> Any:
        return plain

    details: Any = SimpleNamespace(method=CALL, invocation_metadata=())
    gated: Any = await gate.intercept_service(found, details)
    behind: Callable[[bytes, Any], Awaitable[Any]] = gated.unary_unary
    return behind


async def _per_call(
    behaviour: Callable[[bytes, Any], Awaitable[Any]], request: bytes, context: Any
) -> float:
    began = time.thread_time()
    for _ in range(_GATED):
        await behaviour(request, context)
    return (time.thread_time() - began) / _GATED * _US


@asynccontextmanager
async def _served(
    acceptor: Acceptor, handle: Any, folder: Path
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve *handle* behind *acceptor*; yield a channel to it."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((handler(handle),))
    server.add_insecure_port(acceptor.backend)
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, 0)
        stack.push_async_callback(acceptor.aclose)
        where = {"ours": await acceptor.start("127.0.0.1:0")}
        yield await stack.enter_async_context(
            connected("ours", folder, where, await own(folder))
        )
