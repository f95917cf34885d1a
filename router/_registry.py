"""The WorkloadManager as the Router sees it: who owns what, and where it runs."""

from __future__ import annotations

import logging
from datetime import UTC
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from auth import Principal
from cubemesh.v1 import principal_pb2 as pb
from cubemesh.v1 import workloadmanager_pb2 as wm
from cubemesh.v1 import workloadmanager_pb2_grpc as wm_grpc
from router._errors import (
    ManagerAnswerError,
    ManagerUnreachableError,
    RouterError,
    SessionExpiredError,
    SessionNotFoundError,
)
from router._sessions import Door, Session
from serving import carried, span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

__all__ = ["Registry", "owner_of", "principal_to_wire", "session_of"]

# How long we wait for an answer, in seconds.
_QUICK = 10.0
_MAKING = 120.0
_ENDING = 60.0
# Refusals of the WorkloadManager that are about us and not about our caller.
_OURS = frozenset(("DENIED", "UNAUTHENTICATED"))

_log = logging.getLogger("router")


class Registry:
    """Asks the WorkloadManager over *channel*; *router_id* names this process.

    All methods raise a RouterError that is fit for our caller when they fail.
    """

    def __init__(self, channel: grpc.aio.Channel, router_id: str) -> None:
        self._stub: wm_grpc.WorkloadManagerAsyncStub = wm_grpc.WorkloadManagerStub(
            channel
        )
        self.router_id = router_id

    async def create(self, wanted: wm.CreateSessionRequest) -> wm.SandboxSession:
        """Make a session; it is ready when this returns."""
        answer: wm.CreateSessionResponse = await self._ask(
            "CreateSession", wanted, _MAKING
        )
        return answer.session

    async def get(self, session_id: str) -> wm.SandboxSession:
        """Return one live session."""
        wanted = wm.GetSessionRequest(session_id=session_id)
        answer: wm.GetSessionResponse = await self._ask("GetSession", wanted, _QUICK)
        return answer.session

    async def page(self, wanted: wm.ListSessionsRequest) -> wm.ListSessionsResponse:
        """Return some of the live sessions."""
        page: wm.ListSessionsResponse = await self._ask("ListSessions", wanted, _QUICK)
        return page

    async def extend(self, session_id: str, lifetime: Duration) -> wm.SandboxSession:
        """Move the end of a session."""
        wanted = wm.ExtendSessionRequest(session_id=session_id, lifetime=lifetime)
        answer: wm.ExtendSessionResponse = await self._ask(
            "ExtendSession", wanted, _QUICK
        )
        return answer.session

    async def delete(self, session_id: str) -> None:
        """End a session; it is gone when this returns."""
        wanted = wm.DeleteSessionRequest(session_id=session_id)
        await self._ask("DeleteSession", wanted, _ENDING)

    async def templates(self) -> Iterable[wm.Template]:
        """Return what sandboxes can be made from."""
        wanted = wm.ListTemplatesRequest()
        answer: wm.ListTemplatesResponse = await self._ask(
            "ListTemplates", wanted, _QUICK
        )
        return answer.templates

    async def touch(self, touches: list[wm.TouchSessionsRequest.Touch]) -> None:
        """Tell which sessions were in use."""
        wanted = wm.TouchSessionsRequest(router_id=self.router_id, touches=touches)
        await self._ask("TouchSessions", wanted, _QUICK)

    def watch(self, revision: int) -> Any:
        """Begin to watch all sessions, after *revision* (0: from a snapshot)."""
        return self._stub.WatchSessions(
            wm.WatchSessionsRequest(router_id=self.router_id, resume_revision=revision)
        )

    async def _ask(self, method: str, wanted: Message, patience: float) -> Any:
        call = getattr(self._stub, method)
        try:
            with span(f"cubemesh.v1.WorkloadManager/{method}", asking=True):
                return await call(wanted, timeout=patience, metadata=carried())
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error


def session_of(wire: wm.SandboxSession) -> Session | None:
    """Return what the Router needs of a session; ``None``: it takes no calls."""
    if wire.state != wm.SESSION_STATE_READY:
        return None
    return Session(
        session_id=wire.session_id,
        sandbox_id=wire.sandbox_id,
        namespace=wire.namespace,
        template=wire.template,
        owner=owner_of(wire),
        door=Door(wire.address, wire.spiffe_id),
        expires_at=wire.expires_at.ToDatetime(UTC),
    )


def owner_of(wire: wm.SandboxSession) -> Principal:
    """Return whose session that is."""
    owner = wire.owner
    return Principal(owner.issuer, owner.subject, owner.display)


def principal_to_wire(principal: Principal) -> pb.Principal:
    """Return *principal* as a message."""
    return pb.Principal(
        issuer=principal.issuer, subject=principal.subject, display=principal.display
    )


def _translated(error: grpc.aio.AioRpcError) -> RouterError:
    """Return what our caller should hear of the WorkloadManager's answer."""
    status, info = _details(error)
    if info.reason == "SESSION_NOT_FOUND":
        return SessionNotFoundError("no such session")
    if info.reason == "SESSION_EXPIRED":
        return SessionExpiredError("the session has ended", **info.metadata)
    if not info.reason or info.reason in _OURS:
        _log.error(
            "the WorkloadManager did not answer",
            extra={"code": error.code().name, "detail": error.details()},
        )
        return ManagerUnreachableError("sessions cannot be managed at the moment")
    return ManagerAnswerError(
        status.message,
        code=status.code,
        reason=info.reason,
        details=status.SerializeToString(),
    )


def _details(error: grpc.aio.AioRpcError) -> tuple[Status, ErrorInfo]:
    status, info = Status(), ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status.ParseFromString(value)
    for detail in status.details:
        if detail.Unpack(info):
            break
    return status, info
