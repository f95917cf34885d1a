"""The process that forks PicoDs: kept alive, replaced when it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn

from clock import SYSTEM, Clock
from workloadmanager._process import Process, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

__all__ = ["ForkServer", "ForkServerError"]

_START: Final = 30.0  # seconds that its imports may take
_STEADY: Final = 2.0  # after so many seconds a start counts as good
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_PATIENCE: Final = 5.0  # seconds that an order waits for a new one
_STANDARD_ERROR: Final = 2

_log = logging.getLogger(__name__)


class ForkServerError(Exception):
    """There is no fork server now."""


class ForkServer:
    """Orders PicoDs from a process that has imported all they need.

    That process has no key, no thread and no gRPC; see `picod.forkserver`.
    """

    def __init__(
        self,
        python: str,
        environment: Mapping[str, str],
        *,
        traces: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        self._argv = [python, "-I", "-m", "picod.forkserver"]
        self._argv += ["--traces"] if traces else []
        self._environment, self._clock = environment, clock
        self._orders: socket.socket | None = None
        self._there = asyncio.Event()
        self._hopeless = False
        self.starts = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have one run, and a new one when it ends, while inside."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self._keep())
            try:
                yield
            finally:
                keeping.cancel()

    async def _keep(self) -> NoReturn:
        pause = 0.0
        while True:
            began = self._clock.monotonic()
            served = await self._run()
            if served and self._clock.monotonic() - began > _STEADY:
                pause = 0.0
            _log.warning("fork server ended", extra={"served": served, "pause": pause})
            await self._clock.sleep(pause)
            pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)

    async def order(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Have a PicoD forked that finds *descriptors* as 1, 2 and so on.

        Raises:
            ForkServerError: there is nobody to do it.
        """
        try:
            async with asyncio.timeout(0 if self._hopeless else _PATIENCE):
                await self._there.wait()
                while not await self._sent(message, descriptors):
                    await self._there.wait()
        except TimeoutError as error:
            raise ForkServerError("there is none now") from error

    async def _run(self) -> bool:
        """Run one to its end; say whether it ever served."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003
        with ours:
            process = self._start(theirs)
            self.starts += 1
            try:
                self._hopeless = not await self._ready(ours)
                if not self._hopeless:
                    self._orders = ours
                    self._there.set()
                await process.ended.wait()
            finally:
                self._there.clear()
                self._orders = None
                process.kill()
                await process.ended.wait()
        return not self._hopeless

    def _start(self, theirs: socket.socket) -> Process:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        with theirs:
            found = (nowhere, _STANDARD_ERROR, theirs.fileno())
            mark = start(self._argv, self._environment, found)
        os.close(nowhere)
        return Process.of_child(mark)

    async def _ready(self, ours: socket.socket) -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_START):
                return bool(await asyncio.get_running_loop().sock_recv(ours, 64))
        return False

    async def _sent(self, message: bytes, descriptors: Sequence[int]) -> bool:
        """Send one order; say whether there was somebody to take it."""
        loop = asyncio.get_running_loop()
        while (orders := self._orders) is not None:
            try:
                socket.send_fds(orders, [message], descriptors)
            except BlockingIOError:
                writable = asyncio.Event()
                loop.add_writer(orders, writable.set)
                try:
                    await writable.wait()
                finally:
                    loop.remove_writer(orders)
            except OSError:  # it has just ended, which we shall hear of
                self._there.clear()
                return False
            else:
                return True
        return False
