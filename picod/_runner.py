"""The client of one runner: what happens in one sandbox, no gRPC, no protos."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from picod import _messages as messages
from picod import _protocol as wire
from picod._begin import Begun, Wanted, begin
from picod._errors import NoSpaceError, ProcessLimitError, RunnerFaultError
from picod._incidents import Incidents
from picod._interpreters import Interpreters
from picod._link import ENDED
from picod._messages import Stages
from picod._types import (
    Cause,
    Command,
    Exited,
    FileInfo,
    FileType,
    Limits,
    Mode,
    Open,
    Output,
    Started,
)
from picod._upload import Upload
from picod._values import pack, unpack_dict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from picod._groups import Group
    from picod._streams import Stream
    from picod._values import Value

    Event = Started | Output | Exited

__all__ = [
    "Cause",
    "Command",
    "Exited",
    "FileInfo",
    "FileType",
    "Limits",
    "Mode",
    "Open",
    "Output",
    "Runner",
    "Stages",
    "Started",
    "Upload",
    "Wanted",
]

_log = logging.getLogger("picod.runner")
_END = 5.0
_ANSWER = 1.0


class Runner:
    """One sandbox: everything in it is the work of its runner.

    Make it with `start`, end it with `aclose`.
    """

    def __init__(
        self, begun: Begun, limits: Limits, group: Group | None = None
    ) -> None:
        self._link, self._network = begun.link, begun.network
        self.limits, self.stages, self.python = limits, begun.stages, begun.python
        self._incidents = Incidents(group)
        self.code = Interpreters(self._opened, self._link.late, limits.timeout)

    @classmethod
    async def start(cls, sandbox_id: str, wanted: Wanted) -> Self:
        """Start a runner and wait until it is ready; *sandbox_id* is for the log.

        Raises:
            IsolationError: not here; it tells what would help.

        """
        if wanted.level == "none":
            _log.warning("no isolation", extra={"sandbox_id": sandbox_id})
        return cls(await begin(wanted), wanted.limits, wanted.group)

    # -- its life

    @property
    def fault(self) -> str | None:
        """Why the sandbox is lost, or None."""
        return self._link.fault

    @property
    def pid(self) -> int:
        """The process on the host that everything in the sandbox is beneath."""
        return self._link.pid

    @functools.cached_property
    def fault_reason(self) -> str:
        """The reason of `fault`, as errors.md has it."""
        killed = self._incidents.look() and self.fault == ENDED
        return "OUT_OF_MEMORY" if killed else "RUNNER_FAULT"

    async def incident(self) -> str:
        """Tell what the limits last did to the code: a reason, or nothing."""
        self._incidents.look()
        with contextlib.suppress(RunnerFaultError, TimeoutError):
            async with asyncio.timeout(_ANSWER), self._asked(b"usage", b"") as stream:
                _, payload = await stream.next()
                self._incidents.hear(unpack_dict(payload))
        return self._incidents.last

    async def wait_ended(self) -> None:
        """Wait until no process of the sandbox is left."""
        await asyncio.shield(self._link.ended)

    async def aclose(self) -> None:
        """End everything in the sandbox."""
        if self._network is not None:
            await self._network.aclose()
        self._link.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END):
                await self.wait_ended()
            return
        self._link.kill()
        await self.wait_ended()

    # -- commands

    async def execute(self, command: Command) -> AsyncGenerator[list[Event], None]:
        """Run *command*: yield Started, what it writes, Exited, as they come together.

        Closing this kills the command with all its descendants.

        Raises:
            CommandError: it did not start.
            FileError: neither did it, because of its working directory.
            RunnerFaultError: the sandbox is lost.

        """
        timeout = min(command.timeout or self.limits.timeout, self.limits.timeout)
        async with self._opened(messages.execute(command, timeout)) as stream:
            watch = self._link.late(timeout, stream.silent())
            try:
                if command.stdin:
                    stream.feed(command.stdin)
                reader = messages.Events(stream.number)
                while not reader.over:
                    frames = await stream.batch()
                    yield [self._judged(reader.event(*frame)) for frame in frames]
            finally:
                watch.end()

    def _judged(self, event: Event) -> Event:
        """Say of a command that failed whether the kernel killed for memory."""
        if not isinstance(event, Exited) or event.code == 0:
            return event
        if event.cause is Cause.ENDED and self._incidents.look():
            return replace(event, cause=Cause.MEMORY_LIMIT)
        return event

    # -- files

    async def read_file(
        self, path: bytes, offset: int = 0, length: int = 0
    ) -> AsyncGenerator[FileInfo | bytes, None]:
        """Yield what the regular file is, then its bytes from *offset* on.

        *length* 0 means to the end.

        Raises:
            FileError: not this file.

        """
        async with self._asked(
            b"read",
            path,
            offset=messages.offset(offset),
            length=messages.offset(length),
        ) as stream:
            while True:
                kind, payload = await stream.next()
                if kind == wire.DONE:
                    return
                yield messages.info(payload) if kind == wire.INFO else payload

    @asynccontextmanager
    async def write_file(self, opening: Open) -> AsyncIterator[Upload]:
        """Write a file: `write` its data, then `commit`; else it is discarded.

        Raises:
            FileError: not this file.

        """
        async with self._asked(
            b"secret" if opening.secret else b"write",
            opening.path,
            mode=opening.mode.value,
            offset=messages.offset(opening.offset),
            permissions=opening.permissions & 0o7777,
            parents=int(opening.make_parents),
        ) as stream:
            yield Upload(stream)

    async def stat(self, path: bytes) -> FileInfo:
        """Tell about one path, without following a symlink in its last place.

        Raises:
            FileError: not this path.

        """
        return await self._told(b"stat", path)

    async def list_directory(self, path: bytes) -> AsyncGenerator[list[FileInfo], None]:
        """Yield the entries, sorted by name, in lists of at most 1,000.

        Raises:
            FileError: not this path.

        """
        async with self._asked(b"list", path) as stream:
            while True:
                kind, payload = await stream.next()
                if kind == wire.DONE:
                    return
                yield messages.infos(payload)

    async def make_directory(
        self, path: bytes, *, make_parents: bool = False, permissions: int = 0
    ) -> FileInfo:
        """Make a directory; *permissions* 0 means 0755.

        Raises:
            FileError: not this path.

        """
        return await self._told(
            b"make",
            path,
            parents=int(make_parents),
            permissions=permissions & 0o7777,
        )

    async def move(
        self, source: bytes, target: bytes, *, replace: bool = False
    ) -> FileInfo:
        """Rename; an existing *target* is refused unless *replace*.

        Raises:
            FileError: not these paths.

        """
        return await self._told(b"move", source, target=target, replace=int(replace))

    async def remove(self, path: bytes, *, recursive: bool = False) -> None:
        """Delete a file or an empty directory, or all that is in one.

        Raises:
            FileError: not this path.

        """
        async with self._asked(b"remove", path, recursive=int(recursive)) as stream:
            await stream.next()

    @asynccontextmanager
    async def _asked(
        self, operation: bytes, path: bytes, **values: int | bytes
    ) -> AsyncIterator[Stream]:
        request: dict[bytes, Value] = {b"op": operation, b"path": path}
        request.update((key.encode(), value) for key, value in values.items())
        async with self._opened(pack(request)) as stream:
            yield stream

    @asynccontextmanager
    async def _opened(self, request: bytes) -> AsyncIterator[Stream]:
        stream = self._link.open(request)
        try:
            yield stream
        except (ProcessLimitError, NoSpaceError) as error:
            self._incidents.add(error.reason)
            raise
        except wire.ProtocolError as error:
            self._link.break_off(f"the runner broke the protocol: {error}")
            raise RunnerFaultError from error
        finally:
            await stream.aclose()

    async def _told(
        self, operation: bytes, path: bytes, **values: int | bytes
    ) -> FileInfo:
        async with self._asked(operation, path, **values) as stream:
            _, payload = await stream.next()
            await stream.next()
            return messages.info(payload)
