"""Our TLS and gRPC's own, side by side: who shows what, and processes that speak it.

    python -m benchmarks._tls serve FOLDER               until killed
    python -m benchmarks._tls targets FOLDER WHERE KIND  weighs 1,000 connected targets
    python -m benchmarks._tls loader FOLDER              follows files that stay as is

Each prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from contextlib import (
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal

import grpc
import grpc.aio

from authority import Authority, publish_bundle, write_identity
from benchmarks._machine import rss_mib
from clock import SYSTEM
from serving import run
from tlsloader import Acceptor, Allowlist, Dialer, FileSource, Paths, SpiffeID
from tlsloader.grpc import CHANNEL_OPTIONS, SERVER_OPTIONS, Gate, channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = [
    "CALL",
    "CLIENT",
    "SERVER",
    "Kind",
    "call",
    "connected",
    "files",
    "handler",
    "identities",
    "own",
    "same",
    "told",
]

CALL: Final = "/bench.Echo/Call"
SERVER: Final = SpiffeID.parse("spiffe://bench.test/server")
CLIENT: Final = SpiffeID.parse("spiffe://bench.test/client")
Kind = Literal["ours", "ungated", "native"]
"""Our TLS with the gate behind it, without it, and gRPC's own."""
_NAME: Final = "server.bench.test"
_LIFE: Final = timedelta(hours=1)
_TARGETS: Final = 1000
_AT_ONCE: Final = 50
_IDLE_SECONDS: Final = 5.0  # one look at the files is among them
_PATIENCE: Final = 60.0


@contextmanager
def identities() -> Iterator[Path]:
    """Yield a folder with the identities of a server and a client."""
    with TemporaryDirectory(prefix="cubemesh-bench-") as name:
        _write(Path(name))
        yield Path(name)


def _write(folder: Path) -> None:
    now = SYSTEM.now()
    authority = Authority.create(SERVER.trust_domain, now=now)
    publish_bundle(folder / "bundle.pem", authority.bundle)
    for identity, names in ((SERVER, (_NAME,)), (CLIENT, ())):
        issued = authority.issue(identity, life=_LIFE, now=now, dns_names=names)
        write_identity(folder / identity.path[1:], issued)


def files(folder: Path, identity: SpiffeID) -> Paths:
    """Return where an identity is in the folder of `identities`."""
    own = folder / identity.path[1:]
    return Paths(own / "key.pem", own / "svid.pem", folder / "bundle.pem")


def handler(handle: Any) -> grpc.GenericRpcHandler:
    """Return what serves `CALL` by *handle*, bytes in and out."""
    service, _, method = CALL[1:].partition("/")
    handlers: Any = {method: grpc.unary_unary_rpc_method_handler(handle)}
    return grpc.method_handlers_generic_handler(service, handlers)


async def call(opened: grpc.aio.Channel) -> None:
    """Make one call of a hundred bytes."""
    start: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary(CALL)
    await start(bytes(100), timeout=_PATIENCE)


async def own(folder: Path) -> FileSource:
    """Return the client's identity."""
    return await FileSource.load(files(folder, CLIENT))


@asynccontextmanager
async def connected(
    kind: Kind, folder: Path, where: dict[str, str], source: FileSource
) -> AsyncIterator[grpc.aio.Channel]:
    """Open a client's channel of one *kind*; nothing is dialled yet."""
    if kind == "native":
        told = files(folder, CLIENT)
        options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", _NAME)]
        options.append(("grpc.use_local_subchannel_pool", 1))
        parts = (each.read_bytes() for each in (told.bundle, told.key, told.chain))
        credentials = grpc.ssl_channel_credentials(*parts)
        secure = grpc.aio.secure_channel(where[kind], credentials, options=options)
        async with secure as opened:
            yield opened
        return
    made = Dialer(source, expected=SERVER, address=where[kind])
    async with aclosing(made) as dialer, channel(await dialer.start()) as opened:
        yield opened


@asynccontextmanager
async def told(*argv: str | Path) -> AsyncIterator[Any]:
    """Run this module with *argv*; yield what it printed, and end it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks._tls", *argv),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None  # noqa: S101
    try:
        line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"{argv[0]} ended with {await process.wait()}")
        yield json.loads(line)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _say(**said: object) -> None:
    print(json.dumps(said), flush=True)


async def same(request: bytes, _context: Any) -> bytes:
    """Answer with the request."""
    return request


async def _serve(folder: Path) -> None:
    """Answer calls behind our acceptor, with its gate and without, and behind gRPC."""
    source = await FileSource.load(files(folder, SERVER))
    gated, ungated = (
        Acceptor(source, allow=Allowlist.parse(str(CLIENT))) for _ in "12"
    )
    gate = Gate(lambda _, context: gated.peer(context.peer()))
    ours, bare, native = _echo(gate), _echo(), _echo()
    ours.add_insecure_port(gated.backend)
    bare.add_insecure_port(ungated.backend)
    port = native.add_secure_port("127.0.0.1:0", _credentials(folder))
    await asyncio.gather(ours.start(), bare.start(), native.start())
    async with aclosing(gated), aclosing(ungated):
        _say(
            ours=await gated.start("127.0.0.1:0"),
            ungated=await ungated.start("127.0.0.1:0"),
            native=f"127.0.0.1:{port}",
        )
        await asyncio.Event().wait()


def _echo(*gates: Gate) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=gates, options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((handler(same),))
    return server


def _credentials(folder: Path) -> grpc.ServerCredentials:
    told = files(folder, SERVER)
    key, chain, bundle = (
        each.read_bytes() for each in (told.key, told.chain, told.bundle)
    )
    return grpc.ssl_server_credentials(
        [(key, chain)], root_certificates=bundle, require_client_auth=True
    )


async def _targets(folder: Path, where: dict[str, str], kind: Kind) -> None:
    """Weigh this process before and after it has many connected channels."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    source, places = await own(folder), asyncio.Semaphore(_AT_ONCE)
    async with AsyncExitStack() as stack:

        async def one() -> None:
            async with places:
                made = connected(kind, folder, where, source)
                await call(await stack.enter_async_context(made))

        await one()
        before = rss_mib(os.getpid())
        await asyncio.gather(*(one() for _ in range(_TARGETS)))
        _say(kib=(rss_mib(os.getpid()) - before) * 1024 / _TARGETS)


async def _loader(folder: Path) -> None:
    """Follow files that nobody changes; tell the share of a core that this takes."""
    source = await own(folder)
    following = asyncio.ensure_future(source.follow())
    await SYSTEM.sleep(1)
    began, used = time.monotonic(), time.process_time()
    await SYSTEM.sleep(_IDLE_SECONDS)
    share = (time.process_time() - used) / (time.monotonic() - began)
    following.cancel()
    await asyncio.wait([following])
    _say(share=100 * share)


if __name__ == "__main__":
    what, place, *more = sys.argv[1:]
    match what:
        case "serve":
            work = _serve(Path(place))
        case "targets":
            kind: Any = more[1]
            work = _targets(Path(place), json.loads(more[0]), kind)
        case _:
            work = _loader(Path(place))
    raise SystemExit(run(work))
