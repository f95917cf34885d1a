"""How the Router's errors show on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from router._errors import (
    InvalidAskError,
    ManagerAnswerError,
    ManagerUnreachableError,
    MethodUnknownError,
    NotYoursError,
    OverloadedError,
    RouterError,
    SandboxTimeoutError,
    SandboxUnreachableError,
    SessionExpiredError,
    SessionMismatchError,
    SessionNotFoundError,
    SessionRequiredError,
)
from serving import Refusal, aborting

if TYPE_CHECKING:
    from serving import Table

__all__ = ["TABLE", "reason_of", "refuse"]

_DETAILS = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}

TABLE: Table = {
    InvalidAskError: Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    SessionRequiredError: Refusal(grpc.StatusCode.INVALID_ARGUMENT, "SESSION_REQUIRED"),
    SessionNotFoundError: Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
    SessionExpiredError: Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_EXPIRED"),
    NotYoursError: Refusal(grpc.StatusCode.PERMISSION_DENIED, "SESSION_NOT_YOURS"),
    SessionMismatchError: Refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "SESSION_MISMATCH"
    ),
    MethodUnknownError: Refusal(grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN"),
    OverloadedError: Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED", retry_after=1.0
    ),
    SandboxUnreachableError: Refusal(
        grpc.StatusCode.UNAVAILABLE, "SANDBOX_UNREACHABLE"
    ),
    SandboxTimeoutError: Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "SANDBOX_TIMEOUT"),
    ManagerUnreachableError: Refusal(
        grpc.StatusCode.UNAVAILABLE, "WORKLOADMANAGER_UNREACHABLE", retry_after=1.0
    ),
}
"""The Router's own refusals; ManagerAnswerError brings its own."""


def reason_of(error: RouterError) -> str:
    """Return the stable reason that callers read for *error*."""
    if isinstance(error, ManagerAnswerError):
        return error.reason
    return TABLE[type(error)].reason


async def refuse(context: Any, error: RouterError) -> NoReturn:
    """End the call as the table says.

    Raises:
        grpc.aio.AbortError: always.
    """
    if isinstance(error, ManagerAnswerError):
        await context.abort(
            _CODES[error.code], str(error), ((_DETAILS, error.details),)
        )
    async with aborting(context, TABLE):
        raise error
    raise AssertionError  # aborting always raises
