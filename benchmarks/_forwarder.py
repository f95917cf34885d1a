"""A bare forwarder: bytes in and out, no session, no gate, no policy.

Same TLS as the Router's in each mode, same loop, a process of its own: what is left of
its rate in the Router is what the Router's own work costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from serving import run
from tlsloader import (
    Acceptor,
    Allowlist,
    BundlePaths,
    Dialer,
    FileSource,
    Paths,
    SpiffeID,
)
from tlsloader.grpc import SERVER_OPTIONS, channel

SERVICE = "cubemesh.v1.PicoD"
STREAMS = ("Execute", "RunCode")


async def main(told: argparse.Namespace) -> None:
    """Forward `Stat` and `STREAMS` until killed; print where we listen."""
    paths = Paths(told.key, told.chain, told.bundle)
    source = await FileSource.load(paths, BundlePaths(dict(told.foreign)))
    async with AsyncExitStack() as stack:
        target = told.to
        if told.expected:
            expected = SpiffeID.parse(told.expected)
            dialer = Dialer(source, expected=expected, address=told.to)
            stack.push_async_callback(dialer.aclose)
            target = await dialer.start()
        onward = await stack.enter_async_context(channel(target))
        acceptor = Acceptor(source, allow=Allowlist.parse(told.admit))
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((_handlers(onward),))
        server.add_insecure_port(acceptor.backend)
        stack.push_async_callback(server.stop, 0)
        await server.start()
        stack.push_async_callback(acceptor.aclose)
        listen = await acceptor.start("127.0.0.1:0")
        print(json.dumps({"ready": True, "listen": listen}), flush=True)
        await asyncio.Event().wait()


def _handlers(onward: grpc.aio.Channel) -> grpc.GenericRpcHandler:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]
    handlers = {method: _stream(onward, method) for method in STREAMS}
    handlers["Stat"] = _unary(onward, "Stat")
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _unary(onward: grpc.aio.Channel, method: str) -> Any:
    forward: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    forward = onward.unary_unary(f"/{SERVICE}/{method}")

    async def handle(request: bytes, context: Any) -> bytes:
        return await forward(request, **_alike(context))

    return grpc.unary_unary_rpc_method_handler(handle)


def _stream(onward: grpc.aio.Channel, method: str) -> Any:
    forward: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
    forward = onward.unary_stream(f"/{SERVICE}/{method}")

    async def handle(request: bytes, context: Any) -> None:
        call: Any = forward(request, **_alike(context))
        while (message := await call.read()) is not grpc.aio.EOF:
            await context.write(message)

    return grpc.unary_stream_rpc_method_handler(handle)


def _alike(context: Any) -> dict[str, Any]:
    """Return what a call is to have of the one that it forwards."""
    return {
        "metadata": context.invocation_metadata(),
        "timeout": context.time_remaining(),
    }


def _foreign(text: str) -> tuple[str, Path]:
    domain, _, path = text.partition("=")
    return domain, Path(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("key", "chain", "bundle"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--foreign", type=_foreign, action="append", default=[])
    parser.add_argument("--to", required=True)
    parser.add_argument("--expected", default="")
    parser.add_argument("--admit", required=True)
    raise SystemExit(run(main(parser.parse_args())))
