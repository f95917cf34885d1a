"""Files in a sandbox."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from cubemesh._calls import LONGEST, answers, ending, translated, upload
from cubemesh._errors import SandboxFileNotFoundError
from cubemesh._paths import to_bytes
from cubemesh._values import file_from
from cubemesh.v1 import picod_pb2
from cubemesh.v1.picod_pb2 import WriteFileRequest

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

    from cubemesh._paths import SandboxPath
    from cubemesh._session import Session
    from cubemesh._values import FileInfo

_CHUNK = 256 * 1024
_Open = WriteFileRequest.Open


class AsyncFiles:
    """The files of one sandbox; made by it, as ``sandbox.files``.

    Relative paths start at the sandbox's workspace. All methods raise
    `SandboxFileNotFoundError`, `InvalidPathError`, or another `MeshError`.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def read(
        self, path: SandboxPath, *, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Return the content of a file, or *length* bytes of it from *offset* on."""
        if length == 0:
            return b""
        pieces = self.stream(path, offset=offset, length=length)
        async with aclosing(pieces):
            return b"".join([piece async for piece in pieces])

    async def read_text(self, path: SandboxPath, *, encoding: str = "utf-8") -> str:
        """Return the content of a text file."""
        return (await self.read(path)).decode(encoding)

    async def stream(
        self, path: SandboxPath, *, offset: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the content of a file piece by piece; it may be of any size."""
        request = picod_pb2.ReadFileRequest(
            path=to_bytes(path), offset=offset, length=length or 0
        )
        async with self._session.line() as line:
            call = line.picod.ReadFile(
                request, timeout=LONGEST, metadata=self._session.metadata
            )
            async with ending(call), aclosing(answers(call)) as messages:
                async for message in messages:
                    if message.data:
                        yield message.data

    async def write(
        self,
        path: SandboxPath,
        data: bytes | str,
        *,
        replace: bool = True,
        make_parents: bool = False,
        mode: int = 0o644,
    ) -> FileInfo:
        """Write a whole file: it appears, or changes, at once and complete.

        With *replace* off an existing one is refused (`SandboxFileExistsError`).
        *mode* holds for a new file; *make_parents* makes missing directories.
        """
        content = data.encode() if isinstance(data, str) else data
        kind = _Open.MODE_TRUNCATE if replace else _Open.MODE_CREATE
        opened = _Open(
            path=to_bytes(path), mode=kind, permissions=mode, make_parents=make_parents
        )
        return await self._send(opened, _cut(content))

    async def append(self, path: SandboxPath, data: bytes | str) -> FileInfo:
        """Write behind the end of a file; makes it if there is none."""
        content = data.encode() if isinstance(data, str) else data
        opened = _Open(path=to_bytes(path), mode=_Open.MODE_APPEND)
        return await self._send(opened, _cut(content))

    async def upload(
        self,
        local: str | os.PathLike[str],
        path: SandboxPath,
        *,
        make_parents: bool = False,
    ) -> FileInfo:
        """Copy a file of this machine into the sandbox, of any size, with its mode."""
        source = Path(local)
        mode = (await asyncio.to_thread(source.stat)).st_mode & 0o777
        opened = _Open(
            path=to_bytes(path),
            mode=_Open.MODE_TRUNCATE,
            permissions=mode,
            make_parents=make_parents,
        )
        return await self._send(opened, _content(source))

    async def download(self, path: SandboxPath, local: str | os.PathLike[str]) -> int:
        """Copy a file of the sandbox to this machine; return its size in bytes.

        *local* appears, or changes, at once and complete.
        """
        target = Path(local)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        size = 0
        pieces = self.stream(path)
        try:
            with await asyncio.to_thread(draft.open, "xb") as file:
                async with aclosing(pieces):
                    async for piece in pieces:
                        size += await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(draft.replace, target)
        finally:
            draft.unlink(missing_ok=True)
        return size

    async def stat(self, path: SandboxPath) -> FileInfo:
        """Tell about one path; a symlink is told about itself."""
        request = picod_pb2.StatRequest(path=to_bytes(path))
        answer = await self._session.ask(lambda line: line.picod.Stat, request)
        return file_from(answer.info)

    async def exists(self, path: SandboxPath) -> bool:
        """Say whether there is anything at *path*."""
        try:
            await self.stat(path)
        except SandboxFileNotFoundError:
            return False
        return True

    async def list(self, path: SandboxPath = "") -> tuple[FileInfo, ...]:
        """Tell about the entries of a directory, sorted by name."""
        request = picod_pb2.ListDirectoryRequest(path=to_bytes(path))
        found: list[FileInfo] = []
        async with self._session.line() as line:
            call = line.picod.ListDirectory(
                request, timeout=LONGEST, metadata=self._session.metadata
            )
            async with ending(call), aclosing(answers(call)) as messages:
                async for message in messages:
                    found += [file_from(entry) for entry in message.entries]
        return tuple(found)

    async def mkdir(
        self, path: SandboxPath, *, make_parents: bool = False, mode: int = 0o755
    ) -> FileInfo:
        """Make a directory; with *make_parents* one that is there is fine, too."""
        request = picod_pb2.MakeDirectoryRequest(
            path=to_bytes(path), make_parents=make_parents, permissions=mode
        )
        answer = await self._session.ask(lambda line: line.picod.MakeDirectory, request)
        return file_from(answer.info)

    async def move(
        self, source: SandboxPath, target: SandboxPath, *, replace: bool = False
    ) -> FileInfo:
        """Rename a file or directory; *replace* allows a file at *target*."""
        request = picod_pb2.MoveRequest(
            source=to_bytes(source), target=to_bytes(target), replace=replace
        )
        answer = await self._session.ask(lambda line: line.picod.Move, request)
        return file_from(answer.info)

    async def remove(self, path: SandboxPath, *, recursive: bool = False) -> None:
        """Delete a file; a directory with all that is in it only if *recursive*."""
        request = picod_pb2.RemoveRequest(path=to_bytes(path), recursive=recursive)
        await self._session.ask(lambda line: line.picod.Remove, request)

    async def _send(self, opened: _Open, content: AsyncIterable[bytes]) -> FileInfo:
        async with self._session.line() as line:
            with translated():
                call = line.picod.WriteFile(
                    timeout=LONGEST, metadata=self._session.metadata
                )
            async with ending(call):
                answer = await upload(call, _parts(opened, content))
        return file_from(answer.info)


async def _parts(
    opened: _Open, content: AsyncIterable[bytes]
) -> AsyncIterator[WriteFileRequest]:
    yield WriteFileRequest(open=opened)
    size = 0
    async for piece in content:
        size += len(piece)
        yield WriteFileRequest(data=piece)
    yield WriteFileRequest(commit=WriteFileRequest.Commit(size=size))


async def _cut(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


async def _content(source: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(source.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, _CHUNK):
            yield piece
