"""The wire side of PicoD's second door, for the WorkloadManager only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from auth import InvalidPrincipalError, Principal
from cubemesh.v1 import picod_pb2, picod_pb2_grpc
from picod._errors import InvalidRequestError
from picod._refusals import METHOD_NOT_SERVED, TABLE
from picod._sandbox import Binding
from serving import aborting, refuse

if TYPE_CHECKING:
    import grpc

    from picod._sandbox import Sandbox
    from picod._types import Limits

__all__ = ["Isolation", "SandboxControlServicer"]

# What is in bytes or seconds says so on the wire; the rest are counts.
_LIMIT_NAMES = {
    "timeout": "timeout_seconds",
    "output": "output_bytes",
    "memory": "memory_bytes",
    "file_size": "file_size_bytes",
    "workspace": "workspace_bytes",
}


@dataclass(frozen=True, slots=True)
class Isolation:
    """What separates the code from the host, as it really holds."""

    level: str
    uid: int
    own_uid: bool
    limits: Limits

    def message(self) -> picod_pb2.Isolation:
        """Return the message for this: bytes, seconds and counts as whole numbers."""
        return picod_pb2.Isolation(
            level=self.level,
            uid=self.uid,
            own_uid=self.own_uid,
            limits={
                _LIMIT_NAMES.get(name, name): round(value)
                for name, value in asdict(self.limits).items()
            },
        )


class SandboxControlServicer(picod_pb2_grpc.SandboxControlServicer):
    """Serves ``cubemesh.v1.SandboxControl`` for *sandbox*."""

    def __init__(self, sandbox: Sandbox, isolation: Isolation) -> None:
        self._sandbox = sandbox
        self._isolation = isolation.message()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have *server* serve this."""
        picod_pb2_grpc.add_SandboxControlServicer_to_server(self, server)

    async def Bind(  # noqa: N802  # the names are the contract's
        self,
        request: picod_pb2.BindRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> picod_pb2.BindResponse:
        """Give the sandbox its session, once."""
        async with aborting(context, TABLE):
            self._sandbox.control_seen()
            self._sandbox.bind(_binding(request))
        return picod_pb2.BindResponse()

    async def Status(  # noqa: N802
        self,
        request: picod_pb2.StatusRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> picod_pb2.StatusResponse:
        """Tell how the sandbox is."""
        sandbox = self._sandbox
        sandbox.control_seen()
        answer = picod_pb2.StatusResponse(
            sandbox_id=sandbox.sandbox_id,
            session_id=sandbox.session_id,
            ready=sandbox.ready,
            open_calls=sandbox.open_calls,
            last_fault=sandbox.last_fault,
            isolation=self._isolation,
        )
        answer.last_activity.FromDatetime(sandbox.last_activity)
        if sandbox.last_fault:
            sandbox.fault_told.set()
        return answer

    async def Shutdown(  # noqa: N802
        self,
        request: picod_pb2.ShutdownRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> picod_pb2.ShutdownResponse:
        """Answer, then end the sandbox with everything in it."""
        self._sandbox.end("shutdown")
        return picod_pb2.ShutdownResponse()

    async def Renew(  # noqa: N802
        self,
        request: picod_pb2.RenewRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> picod_pb2.RenewResponse:
        """Answer UNIMPLEMENTED."""
        await refuse(context, METHOD_NOT_SERVED, "Renew is not served yet")
        raise AssertionError  # refuse does not return


def _binding(request: picod_pb2.BindRequest) -> Binding:
    if not request.HasField("expires_at"):
        raise InvalidRequestError("expires_at is missing")
    try:
        expires_at = request.expires_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("expires_at is out of range") from error
    told = request.owner
    try:
        owner = Principal(told.issuer, told.subject, told.display)
    except InvalidPrincipalError as error:
        raise InvalidRequestError(f"the owner is malformed: {error}") from error
    return Binding(
        session_id=request.session_id,
        owner=owner,
        environment=dict(request.environment),
        expires_at=expires_at,
    )
