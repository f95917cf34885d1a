"""Bare sandboxes: the least that starts one and gives a result from it.

    python -m benchmarks._bare

A fork server that takes orders from a SOCK_SEQPACKET socket, its descriptor 0. For
each it forks a gRPC server, which starts a Python behind bwrap exactly as PicoD does:
as another user, with the same namespaces, files and filter of system calls. There is
no session, no owner, no limit, no log. An order comes with a line, a socket: on it the
sandbox says that it is ready, and when the other end is closed, what it has cost: then
it has ended.

It plays back the messages of real calls once it has done their work: `RunCode` that in
the sandbox, `Execute` a program without any isolation.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import marshal
import os
import resource
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from benchmarks._forwarder import SERVICE
from picod._bwrap import find_bwrap
from picod._spawn import spawn_bwrap
from picod._types import Limits
from picod.seccomp import load
from serving import run
from tlsloader import Acceptor, Allowlist, FileSource, Paths
from tlsloader.grpc import SERVER_OPTIONS
from workloadmanager._process import Process, start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LARGEST: Final = 1 << 16
_NOBODY: Final = 65534
_PYTHON: Final = "/usr/bin/python3"
_CODE: Final = b"1+1"
_INSIDE: Final = """\
import os
def main(*_):
    while code := os.read(0, 65536):
        os.write(0, repr(eval(code)).encode())
    os._exit(0)
"""


def _bundle() -> bytes:
    """Return the program inside, in the form in which PicoD's bootstrap takes it."""
    parts = [marshal.dumps(each, 4) for each in ([("picod.inside.start", _INSIDE)], [])]
    lengths = [0, 0, *map(len, parts)]  # nothing is compiled ahead
    return b"".join((bytes(4), *(each.to_bytes(4, "big") for each in lengths), *parts))


class _Sandbox:
    """One bare sandbox; *messages* are played back, by method."""

    def __init__(self, messages: Mapping[str, Sequence[str]]) -> None:
        self._messages = {
            method: [bytes.fromhex(each) for each in sent]
            for method, sent in messages.items()
        }
        uid = _NOBODY if os.geteuid() == 0 else None
        spawned = spawn_bwrap(uid=uid, limits=Limits(), python=_PYTHON)
        self._process, self._inside = spawned.process, spawned.socket
        self._inside.send(_bundle())
        self._turn = asyncio.Lock()

    def end(self) -> dict[str, float]:
        """End all processes behind bwrap; return what they and we have cost.

        Minor page faults, and milliseconds of processor time, in the kernel and in all.
        """
        self._inside.close()
        self._process.wait()
        both = [
            *map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        ]
        kernel = sum(used.ru_stime for used in both)
        return {
            "faults": sum(used.ru_minflt for used in both),
            "kernel": 1000 * kernel,
            "processor": 1000 * (kernel + sum(used.ru_utime for used in both)),
        }

    @property
    def handlers(self) -> grpc.GenericRpcHandler:
        """Its gRPC methods: `Run`, unary, and those of PicoD."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Run": grpc.unary_unary_rpc_method_handler(self._run),
            "RunCode": grpc.unary_stream_rpc_method_handler(self._run_code),
            "Execute": grpc.unary_stream_rpc_method_handler(self._execute),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _run(self, request: bytes, _context: Any) -> bytes:
        """Return the value of an expression."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            await loop.sock_sendall(self._inside, request)
            return await loop.sock_recv(self._inside, _LARGEST)

    async def _run_code(self, _request: bytes, context: Any) -> None:
        await self._run(_CODE, context)
        for message in self._messages["RunCode"]:
            await context.write(message)

    async def _execute(self, _request: bytes, context: Any) -> None:
        *first, last = self._messages["Execute"]
        process = Process.of_child(start([str(shutil.which("true"))], {}, ()))
        for message in first:
            await context.write(message)
        await process.ended.wait()
        await context.write(last)


async def _live(order: Mapping[str, Any], line: socket.socket) -> None:
    """Be the sandbox of *order* until nobody holds the other end of *line*."""
    line.setblocking(False)  # noqa: FBT003
    server = grpc.aio.server(options=SERVER_OPTIONS)
    sandbox = _Sandbox(order["messages"])
    server.add_generic_rpc_handlers((sandbox.handlers,))
    await _listen(server, order["listen"], order["identity"], order["admit"])
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(line, b"ready")
    await loop.sock_recv(line, 1)
    await loop.sock_sendall(line, json.dumps(sandbox.end()).encode())
    os._exit(0)


async def _listen(
    server: grpc.aio.Server, listen: str, identity: Sequence[str], admit: str
) -> None:
    """Serve at *listen*: plainly, or as *identity* by TLS, to *admit*."""
    if not identity:
        server.add_insecure_port(listen)
        await server.start()
        return
    source = await FileSource.load(Paths(*map(Path, identity)))
    acceptor = Acceptor(source, allow=Allowlist.parse(admit))
    server.add_insecure_port(acceptor.backend)
    await server.start()
    await acceptor.start(listen)


def main() -> None:
    """Fork for each order until there are no more; a child does not return."""
    with suppress(ImportError):
        importlib.import_module("uvloop")
    find_bwrap()
    load()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries our children
    orders = socket.socket(fileno=0)
    orders.send(b"ready")
    while True:
        data, lines, *_ = socket.recv_fds(orders, _LARGEST, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        if os.fork() == 0:
            orders.detach()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(run(_live(json.loads(data), socket.socket(fileno=lines[0]))))
        os.close(lines[0])


if __name__ == "__main__":
    main()
