"""Calls: foreign errors become ours here and nowhere else; streams end cleanly."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc._cython.cygrpc import InternalError

from cubemesh._errors import BY_CODE, BY_REASON, HINTS, MeshError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from google.protobuf.message import Message

_DOMAIN = "cubemesh"
_DETAILS = "grpc-status-details-bin"
_UNREACHABLE_HINT = "is `cubemesh up` running? `cubemesh doctor` looks closer"
LONGEST = 24 * 3600.0  # no call lasts longer, in seconds
GRACE = 15.0  # what a call may take beside the command it runs, in seconds
A = TypeVar("A")


def to_error(code: grpc.StatusCode, details: str, trailing: Any = ()) -> MeshError:
    """Return the error that an answer of the mesh stands for."""
    info, retry_after = _details(trailing)
    name = code.name
    fallback = BY_CODE.get(name, MeshError)
    kind = BY_REASON.get(info.reason, fallback) if info.reason else fallback
    return kind(
        details or name.lower().replace("_", " "),
        reason=info.reason,
        code=name,
        metadata=dict(info.metadata),
        retry_after=retry_after,
        hint=_hint(name, info.reason),
    )


@contextmanager
def translated() -> Iterator[None]:
    """Turn gRPC's errors into ours."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise to_error(
            error.code(), error.details() or "", error.trailing_metadata()
        ) from None


@asynccontextmanager
async def ending(call: Any) -> AsyncIterator[None]:
    """Cancel *call* when the block is left early: the work it asked for ends."""
    try:
        yield
    finally:
        if not call.done():
            call.cancel()


async def answers(call: grpc.aio.UnaryStreamCall[Any, A]) -> AsyncGenerator[A, None]:
    """Yield what *call* brings."""
    with translated():
        while (message := await call.read()) is not grpc.aio.EOF:
            yield cast("A", message)


async def upload(
    call: grpc.aio.StreamUnaryCall[Any, A], parts: AsyncIterator[Message]
) -> A:
    """Send *parts* and return the answer; what *parts* raises ends the call."""

    async def feed() -> None:
        async for part in parts:
            if not await put(call, part.SerializeToString()):
                return
        with suppress(asyncio.InvalidStateError):  # the answer came before our end
            await call.done_writing()

    def stop_if_failed(task: asyncio.Future[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            call.cancel()

    feeding = asyncio.ensure_future(feed())
    feeding.add_done_callback(stop_if_failed)
    try:
        with translated():
            return await call
    except asyncio.CancelledError:
        if feeding.done() and not feeding.cancelled() and (why := feeding.exception()):
            raise why from None
        raise
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def put(call: Any, message: bytes) -> bool:
    """Send *message*; say whether the call still stands.

    In place of ``call.write()``, which destroys the real status when the server has
    ended the call meanwhile. Source: grpc/grpc#36066.
    """
    await call._metadata_sent.wait()  # noqa: SLF001 - pinned by a test
    try:
        await call._cython_call.send_serialized_message(message)  # noqa: SLF001
    except (InternalError, asyncio.InvalidStateError):
        return False
    return not call.done()


def _hint(code: str, reason: str) -> str:
    if not reason and code == "UNAVAILABLE":
        return _UNREACHABLE_HINT
    return HINTS.get(reason, "")


def _details(trailing: Any) -> tuple[error_details_pb2.ErrorInfo, float | None]:
    info, retry_after = error_details_pb2.ErrorInfo(), None
    for key, value in trailing or ():
        if key != _DETAILS or not isinstance(value, bytes):
            continue
        for detail in _parsed(value).details:
            found = error_details_pb2.ErrorInfo()
            wait = error_details_pb2.RetryInfo()
            if detail.Unpack(found) and found.domain == _DOMAIN:
                info = found
            elif detail.Unpack(wait):
                retry_after = wait.retry_delay.ToNanoseconds() / 1e9
    return info, retry_after


def _parsed(value: bytes) -> status_pb2.Status:
    try:
        return status_pb2.Status.FromString(value)
    except DecodeError:
        return status_pb2.Status()
