"""From our exceptions to gRPC statuses with `google.rpc` details, by one table.

    TABLE: Table = {SessionNotFoundError: Refusal(NOT_FOUND, "SESSION_NOT_FOUND"), …}

    async def Get(self, request, context):
        async with aborting(context, TABLE):
            …

An exception may carry ``metadata`` (str → str): it goes into the ErrorInfo. What
the table does not name is a bug: logged, and INTERNAL "internal error" for the caller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = [
    "DENIED",
    "DOMAIN",
    "INTERNAL",
    "UNAUTHENTICATED",
    "Refusal",
    "Table",
    "aborting",
    "denied",
    "refuse",
]

DOMAIN: Final = "cubemesh"
_TEXT_LIMIT = 1000  # message and details share the 8 KiB of the trailing metadata
_METADATA_LIMIT = 256
_METADATA_ENTRIES = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a cause shows on the wire: status, stable reason, seconds to wait."""

    code: grpc.StatusCode
    reason: str
    retry_after: float | None = None


Table = Mapping[type[Exception], Refusal]
"""Which refusal each of our exceptions becomes; subclasses follow their base."""

INTERNAL: Final = Refusal(grpc.StatusCode.INTERNAL, "INTERNAL")
DENIED: Final = Refusal(grpc.StatusCode.PERMISSION_DENIED, "DENIED")
UNAUTHENTICATED: Final = Refusal(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


@asynccontextmanager
async def aborting(context: Context, table: Table) -> AsyncIterator[None]:
    """End the call with the status *table* gives to what leaves the block.

    The caller reads ``str(error)`` of the exceptions in *table*, and nothing of
    any other: those are logged with their traceback. A cancellation from within
    (an inner call of ours was cancelled) is answered too, since gRPC would leave
    the caller hanging; that of the call itself passes.
    """
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # noqa: BLE001 - the caller must learn nothing
        refusal = next((table[k] for k in type(error).__mro__ if k in table), None)
        if refusal is None:
            _log.exception("unexpected error in a handler")
            await refuse(context, INTERNAL, "internal error")
        else:
            metadata = getattr(error, "metadata", None) or {}
            await refuse(context, refusal, str(error), metadata)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        _log.exception("a handler was cancelled from within")
        await refuse(context, INTERNAL, "internal error")


async def refuse(
    context: Context,
    refusal: Refusal,
    message: str,
    metadata: Mapping[str, str] = {},
) -> None:
    """Abort the call with *refusal* and the text *message*.

    Trailing metadata set before stays. Too long texts are cut, so that the details
    fit into what every gRPC client takes.

    Raises:
        grpc.aio.AbortError: always; it ends the handler.
    """
    status = rpc_status.to_status(_status(refusal, message, metadata))
    trailing = (*(context.trailing_metadata() or ()), *status.trailing_metadata)
    await context.abort(status.code, status.details, trailing)


async def denied(context: Context, code: grpc.StatusCode) -> None:
    """Refuse as a gate does, with its *code* and no reason but "denied".

    Meant for ``tlsloader.grpc.Gate(decide, refused=denied)``.

    Raises:
        grpc.aio.AbortError: always; it ends the handler.
    """
    unknown = code is grpc.StatusCode.UNAUTHENTICATED
    await refuse(context, UNAUTHENTICATED if unknown else DENIED, "denied")


def _status(refusal: Refusal, message: str, metadata: Mapping[str, str]) -> Status:
    info = ErrorInfo(
        reason=refusal.reason,
        domain=DOMAIN,
        metadata={
            _text(key, _METADATA_LIMIT): _text(value, _METADATA_LIMIT)
            for key, value in list(metadata.items())[:_METADATA_ENTRIES]
        },
    )
    details: list[Message] = [info]
    if refusal.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(refusal.retry_after * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    return Status(
        code=refusal.code.value[0],
        message=_text(message, _TEXT_LIMIT),
        details=[_packed(detail) for detail in details],
    )


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _text(value: object, limit: int) -> str:
    """Make *value* valid UTF-8 of at most *limit* bytes; file names may be neither."""
    raw = str(value).encode("utf-8", "backslashreplace")
    return raw[:limit].decode("utf-8", "ignore")
