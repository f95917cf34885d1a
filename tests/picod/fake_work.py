"""A sandbox's work done in memory, and PicoD's service in front of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc

from cubemesh.v1 import picod_pb2_grpc
from picod._code import (
    Code,
    CodeEnd,
    CodeFinished,
    CodeStarted,
    ContextInfo,
    Contexts,
    Fault,
    Import,
    NewContext,
    Result,
)
from picod._errors import (
    CommandNotFoundError,
    ContextNotFoundError,
    FileExistsInSandboxError,
    MissingFileError,
    SizeMismatchError,
)
from picod._sandbox import Sandbox
from picod._servicer import PicoDServicer
from picod._types import (
    Cause,
    Command,
    Exited,
    FileInfo,
    FileType,
    Mode,
    Open,
    Output,
    Started,
)
from tests.fakes import FakeClock
from tests.picod.test_sandbox import SANDBOX, binding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from pathlib import Path

    from google.protobuf.message import Message


def about(path: bytes, size: int = 0) -> FileInfo:
    """Return what the fake says of a regular file."""
    name = path.rpartition(b"/")[2]
    return FileInfo(name, path, FileType.REGULAR, size, 0o644, 1_500_000_000, b"")


class FakeCode:
    """Has one context, and runs two pieces of code: wait, and anything else."""

    def __init__(self) -> None:
        self.asked: list[Code | NewContext | str] = []
        self.running = asyncio.Event()
        self.idle = asyncio.Event()
        self.info = ContextInfo("ctx-1", "python", b"/w\xff", 3, busy=True, waiting=2)

    async def run(
        self, code: Code
    ) -> AsyncGenerator[
        list[CodeStarted | Output | Result | Fault | CodeFinished], None
    ]:
        self.asked.append(code)
        self._known(code.context)
        try:
            yield [CodeStarted("ctx-1", 4, "new")]
            self.running.set()
            if code.text == "wait":
                await asyncio.Event().wait()
            result = {"text/plain": b"4", "image/png": b"\x89"}
            yield [
                Output("stderr", 0, b"said"),
                Result(True, result, {"x": "cut"}),  # noqa: FBT003
            ]
            yield [
                Fault("KeyError", "'k'", "Traceback …"),
                CodeFinished(CodeEnd.TIMEOUT, 1.5, True, 7, 8),  # noqa: FBT003
            ]
        finally:
            self.idle.set()

    async def create(self, new: NewContext) -> ContextInfo:
        self.asked.append(new)
        return self.info

    async def list(self) -> Contexts:
        return Contexts([self.info], [Import("numpy", 0.25, 4096, "no")])

    async def restart(self, name: str) -> ContextInfo:
        self._known(name)
        return self.info

    async def delete(self, name: str) -> None:
        self._known(name)
        self.asked.append(name)

    def _known(self, name: str) -> None:
        if name not in {"", "ctx-1"}:
            raise ContextNotFoundError


class FakeWork:
    """Keeps files in a dict and runs three commands: echo, wait, flood."""

    def __init__(self) -> None:
        self.code = FakeCode()
        self.files: dict[bytes, bytes] = {}
        self.commands: list[Command] = []
        self.discarded = 0
        self.running = asyncio.Event()
        self.idle = asyncio.Event()
        self.written = 0

    async def execute(
        self, command: Command
    ) -> AsyncGenerator[list[Started | Output | Exited], None]:
        self.commands.append(command)
        if command.argv[0] not in {"echo", "wait", "flood"}:
            raise CommandNotFoundError
        self.idle.clear()
        self.running.set()
        try:
            yield [Started("p1", 7)]
            if command.argv[0] == "wait":
                await asyncio.Event().wait()
            while command.argv[0] == "flood":
                yield [Output("stderr", self.written, bytes(65536))]
                self.written += 65536
            yield [
                Output("stdout", 0, " ".join(command.argv[1:]).encode()),
                Exited(3, None, Cause.ENDED, 0.25),
            ]
        finally:
            self.running.clear()
            self.idle.set()

    async def read_file(
        self, path: bytes, offset: int, length: int
    ) -> AsyncGenerator[FileInfo | bytes, None]:
        data = self._content(path)
        yield about(path, len(data))
        end = offset + length if length else None
        if data[offset:end]:
            yield data[offset:end]

    @asynccontextmanager
    async def write_file(self, opening: Open) -> AsyncIterator[FakeUpload]:
        if opening.mode is Mode.CREATE and opening.path in self.files:
            raise FileExistsInSandboxError
        upload = FakeUpload(self, opening)
        self.running.set()
        try:
            yield upload
        finally:
            self.discarded += not upload.committed
            self.idle.set()

    async def stat(self, path: bytes) -> FileInfo:
        return about(path, len(self._content(path)))

    async def list_directory(
        self, path: bytes
    ) -> AsyncGenerator[Sequence[FileInfo], None]:
        del path
        for name in sorted(self.files):
            yield [about(name, len(self.files[name]))]

    async def make_directory(
        self, path: bytes, *, make_parents: bool = False, permissions: int = 0
    ) -> FileInfo:
        del make_parents
        return replace(about(path), type=FileType.DIRECTORY, mode=permissions)

    async def move(
        self, source: bytes, target: bytes, *, replace: bool = False
    ) -> FileInfo:
        if target in self.files and not replace:
            raise FileExistsInSandboxError
        self.files[target] = self._content(source)
        del self.files[source]
        return await self.stat(target)

    async def remove(self, path: bytes, *, recursive: bool = False) -> None:
        del recursive
        self._content(path)
        del self.files[path]

    async def incident(self) -> str:
        return ""

    def _content(self, path: bytes) -> bytes:
        if path not in self.files:
            raise MissingFileError
        return self.files[path]


class FakeUpload:
    """Appears among the files at its commit."""

    def __init__(self, work: FakeWork, opening: Open) -> None:
        self._work, self._opening = work, opening
        self._data = b""
        self.committed = False

    async def write(self, data: bytes) -> None:
        self._data += data
        self._work.written = len(self._data)

    async def commit(self, size: int) -> FileInfo:
        if size != len(self._data):
            raise SizeMismatchError
        self._work.files[self._opening.path] = self._data
        self.committed = True
        return about(self._opening.path, size)


@asynccontextmanager
async def serving(
    work: FakeWork, folder: Path, *, bound: bool = True
) -> AsyncIterator[tuple[picod_pb2_grpc.PicoDAsyncStub, Sandbox]]:
    """Serve *work* without TLS or gate, and yield a stub and the sandbox."""
    clock = FakeClock()
    sandbox = Sandbox(SANDBOX, clock=clock)
    if bound:
        sandbox.bind(binding(clock))
    server = grpc.aio.server(options=[("grpc.http2.bdp_probe", 0)])
    PicoDServicer(sandbox, lambda: work).add_to(server)
    address = f"unix:{folder}/grpc"
    server.add_insecure_port(address)
    await server.start()
    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield picod_pb2_grpc.PicoDStub(channel), sandbox
    await server.stop(0)


def error_info(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, str]:
    """Return the code, the domain and the reason of a refused call."""
    from google.rpc import error_details_pb2  # noqa: PLC0415
    from grpc_status import rpc_status  # noqa: PLC0415

    status = rpc_status.from_call(error)
    assert status is not None
    info: Message = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.domain, info.reason  # type: ignore[attr-defined]
