"""Tasks that belong to an acceptor or a dialer."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

__all__ = ["OwnTasks"]

_log = logging.getLogger(__name__)


class OwnTasks:
    """One task for each connection, all ended by `end`.

    Connections come when peers like, as they do at ``asyncio.Server`` and at gRPC's
    own server: nobody above could start a job for each. So their owner does, keeps
    every one of them in this set, and leaves none behind.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self, job: Coroutine[Any, Any, None], connection: socket.socket | None = None
    ) -> asyncio.Task[None]:
        """Run *job*; what it raises is logged with its traceback.

        *connection* is closed at the end, even if the job never got to begin.
        """
        task = asyncio.create_task(job)  # noqa: TID251 -- owned, see above
        if connection is not None:
            task.add_done_callback(lambda _: connection.close())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109
        """Return once all have ended, or after *timeout* seconds."""
        self._forget_parents()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def end(self) -> None:
        """Cancel all and return once they are gone."""
        self._forget_parents()
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _forget_parents(self) -> None:
        # In a forked child nobody runs them any more: waiting would never end
        if os.getpid() != self._owner:
            self._tasks.clear()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection failed", exc_info=error)
