"""The calls that run, by the connection on which they came."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Call", "RunningCalls"]


class Call:
    """One call that is being handled by the current task; run within ``with``."""

    __slots__ = ("_connection", "_running", "context", "method", "task")

    def __init__(self, running: RunningCalls, method: str, context: Any) -> None:
        self._running = running.by_connection
        self._connection: str = context.peer()
        self.method = method
        self.context = context
        self.task = asyncio.current_task()

    def __enter__(self) -> None:
        self._running.setdefault(self._connection, set()).add(self)

    def __exit__(self, *_: object) -> None:
        calls = self._running[self._connection]
        calls.discard(self)
        if not calls:
            del self._running[self._connection]


class RunningCalls:
    """Which calls run on which connection, as handlers see it."""

    def __init__(self) -> None:
        self.by_connection: dict[str, set[Call]] = {}

    def on(self, connection: str) -> int:
        """Return how many came on *connection*."""
        return len(self.by_connection.get(connection, ()))

    async def end(
        self, connection: str, abort: Callable[[Call], Awaitable[None]]
    ) -> None:
        """Give each call on *connection* a status by *abort*, and cancel its handler.

        In this order: what a handler says when it is cancelled comes too late then.
        """
        calls = self.by_connection.get(connection, ())
        await asyncio.gather(*(_end(call, abort) for call in tuple(calls)))


async def _end(call: Call, abort: Callable[[Call], Awaitable[None]]) -> None:
    # Runs as soon as `abort` waits, which may be long: until the peer has read all
    if call.task is not None:
        asyncio.get_running_loop().call_soon(call.task.cancel)
    await abort(call)
