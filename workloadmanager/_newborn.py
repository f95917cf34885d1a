"""A PicoD that comes to life, and the line to it until it has."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from workloadmanager._process import Mark, Process

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Newborn"]

_CHUNK: Final = 1 << 16
_LAST_MOMENTS: Final = 2.0


class Newborn:
    """One end of a socket whose other end is all that a new PicoD has of us.

    It says there line by line, in JSON, what becomes of it, and reads what it is
    handed. A PicoD that was forked first says which process it is.
    """

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)  # noqa: FBT003
        self._said = b""
        self._passed: list[int] = []

    async def introduced(self) -> Process:
        """Return the process of a PicoD that was forked.

        Raises:
            EOFError: there is none, and will be none.
        """
        self.theirs.close()
        mark = Mark.read(await self._line())
        if mark is None or not self._passed:
            raise EOFError("it did not say which process it is")
        return Process(mark, self._passed.pop())

    async def hand(self, message: bytes) -> None:
        """Hand *message* over, whole; nothing more can be handed."""
        with suppress(OSError):  # it is ending, and `ready` says so
            await asyncio.get_running_loop().sock_sendall(self._ours, message)
            self._ours.shutdown(socket.SHUT_WR)

    async def ready(self, process: Process) -> Mapping[str, Any]:
        """Return what *process* says once it is ready.

        Raises:
            EOFError: it ended before; says with which status.
        """
        self.theirs.close()
        status: object = None
        with suppress(EOFError):
            while True:
                with suppress(ValueError):
                    said = json.loads(await self._line())
                    if said.get("ready"):
                        return dict(said)
                    status = said.get("status", status)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_MOMENTS):  # a silent one is ending
                await process.ended.wait()
        status = process.status if status is None else status
        raise EOFError(f"it ended before it was ready, with status {status}")

    def abandon(self) -> Process | None:
        """Let go of a PicoD before it was introduced; return it if it did meanwhile.

        One that does so later finds nobody there, and ends by itself.
        """
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        with suppress(OSError, EOFError):
            self._receive()
        mark = Mark.read(self._said)
        found = Process(mark, self._passed.pop()) if mark and self._passed else None
        self.close()
        return found

    def close(self) -> None:
        """Close the line; a PicoD that is ready does not need it."""
        self.theirs.close()
        self._ours.close()
        while self._passed:
            os.close(self._passed.pop())

    async def _line(self) -> bytes:
        while b"\n" not in self._said:
            await self._more()
        line, _, self._said = self._said.partition(b"\n")
        return line

    async def _more(self) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._ours, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._ours)
        try:
            self._receive()
        except BlockingIOError:
            return
        except OSError as error:
            raise EOFError(str(error)) from error

    def _receive(self) -> None:
        data, passed, *_ = socket.recv_fds(
            self._ours, _CHUNK, 1, socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            raise EOFError
        self._said += data
        self._passed += passed
