"""The client of a runner's contexts: run code, make and end contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from picod import _code_messages as messages
from picod._values import pack, unpack_dict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from picod._code import (
        Code,
        CodeFinished,
        CodeStarted,
        ContextInfo,
        Contexts,
        Fault,
        NewContext,
        Result,
    )
    from picod._streams import Stream
    from picod._types import Output
    from picod._values import Value

    Event = CodeStarted | Output | Result | Fault | CodeFinished

__all__ = ["Interpreters"]

T = TypeVar("T")
_GRACE = 2.0  # what the runner gives code after SIGINT, in seconds


class _Watch(Protocol):
    def end(self) -> None: ...


class Interpreters:
    """The contexts of one sandbox.

    Args:
        opened: opens a stream with a request, and ends it with the block.
        late: calls it a fault when a stream is silent for too long.
        limit: how long a call may take, in seconds.

    """

    def __init__(
        self,
        opened: Callable[[bytes], AbstractAsyncContextManager[Stream]],
        late: Callable[[float, Callable[[], bool]], _Watch],
        limit: float,
    ) -> None:
        self._opened, self._late, self._limit = opened, late, limit

    async def run(self, code: Code) -> AsyncGenerator[list[Event], None]:
        """Run *code* and yield what it does, as it comes together.

        Closing this interrupts it, and kills its interpreter if it goes on.

        Raises:
            CodeError: it did not run.
            ProcessLimitError: there was no process for its interpreter.
            RunnerFaultError: the sandbox is lost.

        """
        timeout = min(code.timeout or self._limit, self._limit)
        async with self._opened(messages.run(code, timeout)) as stream:
            watch = self._late(timeout + _GRACE, stream.silent())
            try:
                reader = messages.CodeEvents()
                while not reader.over:
                    told = [reader.event(*frame) for frame in await stream.batch()]
                    if events := [event for event in told if event is not None]:
                        yield events
            finally:
                watch.end()

    async def create(self, new: NewContext) -> ContextInfo:
        """Make a context; its interpreter runs.

        Raises:
            CodeError: not this one.
            FileError: not in that folder.
            ProcessLimitError: there was no process for it.

        """
        return await self._ask(messages.create(new), messages.context)

    async def list(self) -> Contexts:
        """Tell of all contexts and imports."""
        return await self._ask(pack({b"op": b"context_list"}), messages.contexts)

    async def restart(self, name: str) -> ContextInfo:
        """End the interpreter of a context with all its processes.

        Raises:
            ContextNotFoundError: there is no such context.

        """
        request = messages.named(b"context_restart", name)
        return await self._ask(request, messages.context)

    async def delete(self, name: str) -> None:
        """End a context with all its processes.

        Raises:
            ContextNotFoundError: there is no such context.

        """
        await self._ask(messages.named(b"context_delete", name), messages.context)

    async def _ask(self, request: bytes, read: Callable[[dict[bytes, Value]], T]) -> T:
        async with self._opened(request) as stream:
            _, payload = await stream.next()
            return read(unpack_dict(payload))
