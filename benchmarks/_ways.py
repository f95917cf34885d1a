"""The same calls on several ways: by the Router, without it, by a bare forwarder."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import grpc.aio

from benchmarks._floor import forks
from benchmarks._mesh import direct, identity_of, routed
from benchmarks._setup import TEMPLATE
from cubemesh import AsyncSandbox
from cubemesh._plan import SANDBOX_TRUST_DOMAIN, TRUST_DOMAIN
from cubemesh.v1 import picod_pb2 as pb
from cubemesh.v1.picod_pb2_grpc import PicoDStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from benchmarks._mesh import Mesh
    from cubemesh.v1.picod_pb2_grpc import PicoDAsyncStub

__all__ = ["Way", "Ways", "floor", "ways"]

_SESSION = "x-agentcube-session-id"
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Way:
    """A way to one sandbox; *pid* is the process that passes calls on, 0: none does.

    Each call takes the next of its connections.
    """

    stubs: Iterator[PicoDAsyncStub]
    metadata: Sequence[tuple[str, str | bytes]]
    pid: int = 0

    @property
    def stub(self) -> PicoDAsyncStub:
        """The methods of PicoD."""
        return next(self.stubs)

    async def stat(self) -> None:
        """Make the smallest useful call."""
        request = pb.StatRequest(path=b".")
        await self.stub.Stat(request, metadata=self.metadata, timeout=_PATIENCE)

    async def true(self) -> None:
        """Run ``true`` to its end."""
        await self.execute("true")

    async def execute(self, *argv: str) -> int:
        """Run a command to its end; return how many bytes it wrote."""
        return await _size(self._execute(*argv), _output)

    async def run_code(self) -> int:
        """Run ``1+1`` in the context that is there; return how many bytes it wrote."""
        return await _size(self._run_code(), _output)

    async def messages(self) -> dict[str, list[str]]:
        """Return what comes for ``true`` and ``1+1``, in hexadecimal, by method."""
        calls = {"Execute": self._execute("true"), "RunCode": self._run_code()}
        return {
            method: [each.SerializeToString().hex() async for each in call]
            for method, call in calls.items()
        }

    def _execute(self, *argv: str) -> Any:
        request = pb.ExecuteRequest(argv=argv)
        return self.stub.Execute(request, metadata=self.metadata, timeout=2 * _PATIENCE)

    def _run_code(self) -> Any:
        request = pb.RunCodeRequest(code="1+1")
        return self.stub.RunCode(request, metadata=self.metadata, timeout=2 * _PATIENCE)

    async def read(self, path: bytes) -> int:
        """Read a file; return its size."""
        request = pb.ReadFileRequest(path=path)
        call = self.stub.ReadFile(request, metadata=self.metadata)
        return await _size(call, lambda part: part.data)

    async def write(self, path: bytes, pieces: int, piece: bytes) -> int:
        """Write a file of so many times the same *piece*; return its size."""
        opened = pb.WriteFileRequest.Open(
            path=path, mode=pb.WriteFileRequest.Open.MODE_TRUNCATE
        )
        size = pieces * len(piece)

        async def parts() -> AsyncIterator[pb.WriteFileRequest]:
            yield pb.WriteFileRequest(open=opened)
            for _ in range(pieces):
                yield pb.WriteFileRequest(data=piece)
            yield pb.WriteFileRequest(commit=pb.WriteFileRequest.Commit(size=size))

        answer = await self.stub.WriteFile(parts(), metadata=self.metadata)
        return int(answer.info.size)


def _output(message: pb.ExecuteResponse | pb.RunCodeResponse) -> bytes:
    return b"".join(event.output.data for event in message.events)


async def _size(call: Any, data: Callable[[Any], bytes]) -> int:
    """Read *call* to its end; return how many bytes of *data* it brought."""
    size = 0
    while (message := await call.read()) is not grpc.aio.EOF:
        size += len(data(message))
    return size


@dataclass(frozen=True, slots=True)
class Ways:
    """To one sandbox: as its owner, as the Router, and through the bare forwarder."""

    sandbox: AsyncSandbox
    routed: Way
    direct: Way
    bare: Way


@asynccontextmanager
async def ways(at: Mesh, *, connections: int = 1) -> AsyncIterator[Ways]:
    """Make a sandbox, and open all ways to it.

    The Router and the bare forwarder are reached by so many *connections*.
    """
    async with AsyncExitStack() as stack:
        made = await AsyncSandbox.create(profile=at.profile, template=TEMPLATE)
        sandbox = await stack.enter_async_context(made)
        behind = await stack.enter_async_context(direct(at, sandbox.session_id))
        forwarder = _forwarder(at, behind.address, behind.spiffe_id)
        pid, bare = await stack.enter_async_context(forwarder)
        to = [await _stubs(stack, at, where, connections) for where in (None, bare)]
        named = ((_SESSION, sandbox.session_id),)
        yield Ways(
            sandbox,
            Way(to[0], named, at.router),
            Way(cycle([PicoDStub(behind.channel)]), behind.metadata),
            Way(to[1], behind.metadata, pid),
        )


async def _stubs(
    stack: AsyncExitStack, at: Mesh, address: str | None, connections: int
) -> Iterator[PicoDAsyncStub]:
    """Open *connections* to *address*, or to the Router, closed with *stack*."""
    opened = [
        await stack.enter_async_context(routed(at, address)) for _ in range(connections)
    ]
    return cycle([PicoDStub(each) for each in opened])


@asynccontextmanager
async def floor(at: Mesh, to: Ways) -> AsyncIterator[Way]:
    """Open the way to a bare sandbox through a bare forwarder, by the same TLS.

    It plays back the messages that the real one sends.
    """
    own, proven = at.identity, at.mode == "mtls"
    identity = (own.key, own.chain, own.bundle) if proven else ()
    expected = str(identity_of(own.chain)) if proven else ""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(forks())
        messages = await to.direct.messages()
        bare = await made.start(messages, identity, expected)
        stack.push_async_callback(bare.end)
        forwarder = _forwarder(at, bare.address, expected)
        pid, address = await stack.enter_async_context(forwarder)
        yield Way(await _stubs(stack, at, address, 1), (), pid)


@asynccontextmanager
async def _forwarder(
    at: Mesh, to: str, expected: str
) -> AsyncIterator[tuple[int, str]]:
    """Run the bare forwarder in front of *to*; yield its pid and address."""
    identity = at.identity
    foreign = at.bundle(SANDBOX_TRUST_DOMAIN)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks._forwarder"),
        *("--key", identity.key, "--chain", identity.chain),
        *("--bundle", identity.bundle, "--to", to),
        *("--foreign", f"{SANDBOX_TRUST_DOMAIN}={foreign}"),
        *("--expected", expected, "--admit", f"spiffe://{TRUST_DOMAIN}/user/"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None  # noqa: S101
    try:
        ready: dict[str, Any] = json.loads(await process.stdout.readline())
        yield process.pid, ready["listen"]
    finally:
        process.kill()
        await process.wait()
