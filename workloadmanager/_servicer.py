"""The wire side of the WorkloadManager: protos in, protos out, nothing decided."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from grpc import StatusCode

from cubemesh.v1 import workloadmanager_pb2 as pb
from cubemesh.v1 import workloadmanager_pb2_grpc
from serving import Refusal, Table, aborting, refuse
from workloadmanager._errors import (
    BindingRefusedError,
    BindingTooLargeError,
    ClosingError,
    InvalidPathError,
    InvalidRequestError,
    NoIdentityError,
    PathOutsideWorkspaceError,
    PoolExhaustedError,
    RequestMismatchError,
    SandboxStartError,
    SecretsNotIsolatedError,
    SessionExpiredError,
    SessionNotFoundError,
    TemplateNotFoundError,
)
from workloadmanager._wire import (
    event_to_wire,
    owner_from_wire,
    session_to_wire,
    span_from_wire,
    template_to_wire,
    touch_from_wire,
    wish_from_wire,
)
from workloadmanager._wishes import check_owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc

    from workloadmanager._sessions import Sessions

    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["TABLE", "WorkloadManagerServicer"]

TABLE: Final[Table] = {
    InvalidRequestError: Refusal(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    InvalidPathError: Refusal(StatusCode.INVALID_ARGUMENT, "INVALID_PATH"),
    PathOutsideWorkspaceError: Refusal(
        StatusCode.INVALID_ARGUMENT, "PATH_OUTSIDE_WORKSPACE"
    ),
    BindingTooLargeError: Refusal(StatusCode.INVALID_ARGUMENT, "BINDING_TOO_LARGE"),
    SecretsNotIsolatedError: Refusal(
        StatusCode.FAILED_PRECONDITION, "SECRETS_NOT_ISOLATED"
    ),
    BindingRefusedError: Refusal(StatusCode.FAILED_PRECONDITION, "BINDING_REFUSED"),
    TemplateNotFoundError: Refusal(StatusCode.NOT_FOUND, "TEMPLATE_NOT_FOUND"),
    SessionNotFoundError: Refusal(StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
    SessionExpiredError: Refusal(StatusCode.NOT_FOUND, "SESSION_EXPIRED"),
    RequestMismatchError: Refusal(StatusCode.FAILED_PRECONDITION, "SESSION_MISMATCH"),
    PoolExhaustedError: Refusal(
        StatusCode.RESOURCE_EXHAUSTED, "POOL_EXHAUSTED", retry_after=1.0
    ),
    NoIdentityError: Refusal(
        StatusCode.UNAVAILABLE, "IDENTITY_UNAVAILABLE", retry_after=1.0
    ),
    SandboxStartError: Refusal(StatusCode.UNAVAILABLE, "SANDBOX_START_FAILED"),
    ClosingError: Refusal(StatusCode.UNAVAILABLE, "SHUTTING_DOWN", retry_after=1.0),
}

_PAGE = 100
_LARGEST_PAGE = 1000
_MOST_TOUCHES = 10_000


class WorkloadManagerServicer(workloadmanager_pb2_grpc.WorkloadManagerServicer):
    """Serves ``cubemesh.v1.WorkloadManager`` with *sessions*.

    *isolation* is the level of templates that name none.
    """

    def __init__(self, sessions: Sessions, *, isolation: str) -> None:
        self._sessions = sessions
        self._isolation = isolation

    async def CreateSession(  # noqa: N802  # the names are the contract's
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        """Make a sandbox for a new session; undone if the caller goes away."""
        async with aborting(context, TABLE):
            try:
                session = await self._sessions.create(wish_from_wire(request))
            except PoolExhaustedError as error:
                refusal = replace(
                    TABLE[PoolExhaustedError], retry_after=error.retry_after
                )
                await refuse(context, refusal, str(error), error.metadata)
                raise
        return pb.CreateSessionResponse(session=session_to_wire(session))

    async def GetSession(  # noqa: N802
        self, request: pb.GetSessionRequest, context: Context
    ) -> pb.GetSessionResponse:
        """Tell about one session."""
        async with aborting(context, TABLE):
            session = await self._sessions.look(request.session_id)
        return pb.GetSessionResponse(session=session_to_wire(session))

    async def ListSessions(  # noqa: N802
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        """List live sessions, oldest first."""
        async with aborting(context, TABLE):
            owner = None
            if request.HasField("owner"):
                check_owner(owner := owner_from_wire(request.owner))
            if request.page_size > _LARGEST_PAGE:
                raise InvalidRequestError("page_size", f"at most {_LARGEST_PAGE}")
            page = self._sessions.page(
                owner=owner,
                namespace=request.namespace,
                size=request.page_size or _PAGE,
                token=request.page_token,
            )
        return pb.ListSessionsResponse(
            sessions=map(session_to_wire, page.sessions), next_page_token=page.next
        )

    async def ExtendSession(  # noqa: N802
        self, request: pb.ExtendSessionRequest, context: Context
    ) -> pb.ExtendSessionResponse:
        """Move the end of a session."""
        async with aborting(context, TABLE):
            lifetime = span_from_wire("lifetime", request.lifetime)
            session = await self._sessions.extend(request.session_id, lifetime)
        return pb.ExtendSessionResponse(session=session_to_wire(session))

    async def DeleteSession(  # noqa: N802
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> pb.DeleteSessionResponse:
        """End a session; the answer comes when nothing is left of it."""
        async with aborting(context, TABLE):
            await self._sessions.delete(request.session_id)
        return pb.DeleteSessionResponse()

    async def TouchSessions(  # noqa: N802
        self, request: pb.TouchSessionsRequest, context: Context
    ) -> pb.TouchSessionsResponse:
        """Note what a Router saw."""
        async with aborting(context, TABLE):
            if len(request.touches) > _MOST_TOUCHES:
                raise InvalidRequestError("touches", f"at most {_MOST_TOUCHES}")
            await self._sessions.touch(map(touch_from_wire, request.touches))
        return pb.TouchSessionsResponse()

    async def WatchSessions(  # noqa: N802
        self, request: pb.WatchSessionsRequest, context: Context
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        """Send a snapshot or what was missed, then every change."""
        async with aborting(context, TABLE):
            feed = self._sessions.feed.watch(request.resume_revision)
            async with aclosing(feed) as events:
                async for event in events:
                    yield event_to_wire(event)

    async def ListTemplates(  # noqa: N802
        self, request: pb.ListTemplatesRequest, context: Context
    ) -> pb.ListTemplatesResponse:
        """List what sandboxes can be made from."""
        del request, context
        templates = self._sessions.templates
        return pb.ListTemplatesResponse(
            templates=[template_to_wire(each, self._isolation) for each in templates]
        )
