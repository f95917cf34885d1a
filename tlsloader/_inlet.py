"""The private socket at which the gRPC channels of this very process come in."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final

from tlsloader._address import Address, Listener
from tlsloader._end import End
from tlsloader._private import PrivateFolder, credentials, kept
from tlsloader._refuser import Refuser
from tlsloader._tasks import OwnTasks

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from clock import Clock

__all__ = ["Inlet"]

_log = logging.getLogger(__name__)

_RETRY: Final = 0.1


class Inlet:
    """A Unix socket in a private folder; each connection is a task that *serve* has.

    Only this process may come: who connects speaks with its identity. Another one,
    such as a forked child, is told so by a refused call, and the log tells of it.
    """

    def __init__(self, serve: Callable[[End], Awaitable[None]], clock: Clock) -> None:
        self._serve = serve
        self._clock = clock
        self._folder: PrivateFolder | None = None
        self._listener: Listener | None = None
        self._accepting = OwnTasks()
        self._tasks = OwnTasks()

    async def start(self) -> str:
        """Listen, and return where: the target for a channel."""
        self._folder = PrivateFolder()
        address = Address(path=str(self._folder.path / "dial"))
        self._listener = await Listener.open(address)
        self._accepting.start(self._accept(self._listener.sock))
        return str(address)

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109
        """Return once no connection is left, or after *timeout* seconds."""
        await self._tasks.wait(timeout)

    async def aclose(self) -> None:
        """End every connection now and remove the socket."""
        await self._accepting.end()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._tasks.end()
        if self._folder is not None:
            self._folder.remove()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                _log.warning("cannot accept", extra={"detail": str(error)})
                await self._clock.sleep(_RETRY)
            else:
                self._tasks.start(self._welcome(kept(connection)), connection)

    async def _welcome(self, connection: socket.socket) -> None:
        pid, own = credentials(connection).pid, os.getpid()
        end = End()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: end, connection)
        try:
            if pid == own:
                await self._serve(end)
                return
            detail = f"process {pid} came to a channel of process {own}"
            _log.error(
                "peer refused",
                extra={"reason": "other_process", "pid": pid, "detail": detail},
            )
            text = f"this channel is that of process {own}: open one of your own"
            await Refuser(end, text).run()
        finally:
            end.transport.abort()
