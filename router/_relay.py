"""Carry messages between two gRPC calls, unread, one at a time, in no queue."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc._cython.cygrpc import InternalError, UsageError
from grpc.aio import EOF

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Metadata = tuple[tuple[str, str | bytes], ...]

__all__ = [
    "GONE",
    "Upload",
    "carry_down",
    "carry_down_but_one",
    "first_of",
    "hang_up",
    "last_of",
    "put",
]

# What a write to, or an abort of, a call raises once the call is over.
GONE = InternalError

_log = logging.getLogger("router")


async def put(call: Any, raw: bytes) -> bool:
    """Send one serialized message on *call*; ``False``: the call is over.

    ``call.write()`` would replace the status with which the other end closes the call
    by an INTERNAL of its own (grpc#36066), so this goes one layer below it. After
    ``False`` the call's code, details and trailing metadata are the true ones.
    """
    await call._metadata_sent.wait()  # noqa: SLF001 - pinned by a test
    try:
        await call._cython_call.send_serialized_message(raw)  # noqa: SLF001 - as above
    except GONE:
        return False
    return True


async def first_of(call: Any) -> Metadata:
    """Return the initial metadata of *call*, as they came.

    The public way sorts them into a mapping first, which costs more than the rest.
    """
    metadata: Metadata | None = await call._cython_call.initial_metadata()  # noqa: SLF001 - pinned by tests
    return metadata or ()


async def last_of(call: Any) -> Metadata:
    """Return the trailing metadata of *call* once it is over, as they came."""
    status = await call._cython_call.status()  # noqa: SLF001 - pinned by tests
    metadata: Metadata | None = status.trailing_metadata()
    return metadata or ()


async def _carry_up(context: Any, call: Any) -> None:
    """Send what the caller sends, then close that direction.

    A caller that vanished looks like one that has sent all; so uploads end by a
    message of their own and never by this.
    """
    read = context.read
    while (raw := await read()) is not EOF:
        if not await put(call, raw):
            return
    # The call may end while its sending side is being closed.
    with suppress(asyncio.InvalidStateError, GONE):
        await call.done_writing()


class Upload:
    """While the block runs, the caller's messages are carried to *call*."""

    __slots__ = ("_call", "_context", "_task")

    def __init__(self, context: Any, call: Any) -> None:
        self._context, self._call = context, call

    async def __aenter__(self) -> None:
        """Start; the block waits for the answer."""
        work = _carry_up(self._context, self._call)
        self._task = asyncio.create_task(work)  # noqa: TID251 - ends with the block
        self._task.add_done_callback(self._done)

    async def __aexit__(self, *_: object) -> None:
        """Stop; what is not sent by now nobody wants any more."""
        self._task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("upload broke off", exc_info=error)
            self._call.cancel()


async def carry_down(call: Any, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Hand each message of *call* to *send*, until the good end.

    Raises:
        grpc.aio.AioRpcError: the call failed.
    """
    read = call.read
    while (raw := await read()) is not EOF:
        await send(raw)


async def carry_down_but_one(
    call: Any, send: Callable[[bytes], Awaitable[None]]
) -> bytes:
    """Hand each message of *call* to *send* but the last, if the end came with it.

    Returns that message, or an empty one.

    Raises:
        grpc.aio.AioRpcError: the call failed.
    """
    read = call.read
    while (raw := await read()) is not EOF:
        await asyncio.sleep(0)  # noqa: TID251 - lets a status that has come be noted
        if call.done() and await call.code() is grpc.StatusCode.OK:
            answer: bytes = raw
            return answer
        await send(raw)
    return b""


async def hang_up(context: Any) -> NoReturn:
    """End a call whose task was cancelled, so that nobody waits for its answer.

    Raises:
        CancelledError: the call was over already.
    """
    with suppress(GONE, UsageError):
        await context.abort(grpc.StatusCode.CANCELLED, "cancelled")
    raise asyncio.CancelledError
