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
    from collections.abc import Mapping, Sequence

__all__ = ["Newborn"]

_CHUNK: Final = 1 << 16
_LAST_MOMENTS: Final = 2.0


class Newborn:
    """One end of a socket whose other end is all that a new PicoD has of us.

    It says there line by line, in JSON, what becomes of it; one that was forked first
    says which process it is. Each of *handed* comes to it through a descriptor of its
    own, once it is there.
    """

    def __init__(self, handed: Sequence[bytes] = ()) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)  # noqa: FBT003
        self._gifts = [(message, *socket.socketpair()) for message in handed]
        self._said = b""
        self._passed: list[int] = []

    def descriptors(self, log: int) -> Sequence[int]:
        """Return what it is to find as 1, 2 and so on."""
        gifts = (theirs.fileno() for _, _, theirs in self._gifts)
        return self._theirs.fileno(), log, *gifts

    async def introduced(self) -> Process:
        """Return the process of a PicoD that was forked.

        Raises:
            EOFError: there is none, and will be none.
        """
        self._let_go()
        mark = Mark.read(await self._line())
        if mark is None or not self._passed:
            raise EOFError("it did not say which process it is")
        return Process(mark, self._passed.pop())

    async def hand_over(self) -> None:
        """Hand over what it is to have, whole."""
        self._let_go()
        loop = asyncio.get_running_loop()
        for message, ours, _ in self._gifts:
            ours.setblocking(False)  # noqa: FBT003
            with ours, suppress(OSError):  # it is ending, and `ready` says so
                await loop.sock_sendall(ours, message)

    async def ready(self, process: Process) -> Mapping[str, Any]:
        """Return what *process* says once it is ready.

        Raises:
            EOFError: it ended before; says with which status.
        """
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
        return Process(mark, self._passed.pop()) if mark and self._passed else None

    def close(self) -> None:
        """Close the line; a PicoD that is ready does not need it."""
        self._let_go()
        self._ours.close()
        for _, ours, _ in self._gifts:
            ours.close()
        while self._passed:
            os.close(self._passed.pop())

    def _let_go(self) -> None:
        """Leave the other ends to the new process."""
        self._theirs.close()
        for _, _, theirs in self._gifts:
            theirs.close()

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
