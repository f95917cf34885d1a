"""The wire side of PicoD's second door, for the WorkloadManager only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from auth import InvalidPrincipalError, Principal
from cubemesh.v1 import picod_pb2, picod_pb2_grpc
from picod._contents import Contents
from picod._errors import (
    IdentityNotHandedError,
    IdentityRefusedError,
    InvalidRequestError,
    SecretsNotIsolatedError,
)
from picod._identity import handed_from_wire
from picod._refusals import TABLE
from picod._sandbox import Binding
from serving import aborting
from tlsloader import HandedSource, MaterialError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import grpc

    from picod._sandbox import Sandbox
    from picod._types import Limits
    from picod._work import Work
    from tlsloader import FileSource
    from tlsloader.workload import WorkloadAPISource

__all__ = ["Entry", "Isolation", "SandboxControlServicer", "binding_from_wire"]

# What is in bytes or seconds says so on the wire; the rest are counts.
_LIMIT_NAMES = {
    "timeout": "timeout_seconds",
    "output": "output_bytes",
    "memory": "memory_bytes",
    "file_size": "file_size_bytes",
    "scratch": "scratch_bytes",
    "workspace": "workspace_bytes",
}


@dataclass(frozen=True, slots=True)
class Isolation:
    """What separates the code from the host, as it really holds."""

    level: str
    uid: int
    own_uid: bool
    limits: Limits
    limits_by: str = "rlimits"
    network: bool = False

    def message(self) -> picod_pb2.Isolation:
        """Return the message for this: bytes, seconds and counts as whole numbers."""
        return picod_pb2.Isolation(
            level=self.level,
            uid=self.uid,
            own_uid=self.own_uid,
            limits={
                _LIMIT_NAMES.get(name, name): round(getattr(self.limits, name))
                for name in self.limits.__slots__
            },
            limits_by=self.limits_by,
            network=self.network,
        )

    def told(self) -> Mapping[str, Any]:
        """Return the same as JSON has it."""
        message = self.message()
        return json_format.MessageToDict(message, preserving_proto_field_name=True)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the data door shows, and whom it refused; nothing is proven in jwt mode."""

    source: HandedSource | FileSource | WorkloadAPISource | None = None
    refusals: Mapping[str, int] = field(default_factory=dict)

    def identity(self) -> picod_pb2.IdentityStatus | None:
        """Return the message that tells of the identity in use."""
        if self.source is None:
            return None
        own = self.source.current()
        status = picod_pb2.IdentityStatus(
            spiffe_id=str(own.identity),
            generation=own.generation,
            refusals=self.source.refusals,
        )
        status.expires_at.FromDatetime(own.not_after)
        return status


class SandboxControlServicer(picod_pb2_grpc.SandboxControlServicer):
    """Serves ``cubemesh.v1.SandboxControl`` for *sandbox*; *entry* is its data door.

    *runner* returns what works inside, and is asked once *sandbox* is ready.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        isolation: Isolation,
        entry: Entry,
        runner: Callable[[], Work],
    ) -> None:
        self._sandbox, self._runner = sandbox, runner
        self._isolation = isolation.message()
        self._entry = entry

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have *server* serve this."""
        picod_pb2_grpc.add_SandboxControlServicer_to_server(self, server)

    async def Bind(  # noqa: N802  # the names are the contract's
        self,
        request: picod_pb2.BindRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> picod_pb2.BindResponse:
        """Give the sandbox its session, once, when all that belongs to it is there."""
        async with aborting(context, TABLE):
            self._sandbox.control_seen()
            contents = _contents(request)
            if contents.secrets and self._isolation.level == "none":
                raise SecretsNotIsolatedError
            binding = binding_from_wire(request, contents.environment)
            with self._sandbox.binding_to(binding):
                await contents.put(self._runner())
        return picod_pb2.BindResponse()

    async def Status(  # noqa: N802
        self,
        request: picod_pb2.StatusRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> picod_pb2.StatusResponse:
        """Tell how the sandbox is."""
        sandbox = self._sandbox
        sandbox.control_seen()
        if sandbox.ready and sandbox.binding_known:
            sandbox.note(await self._runner().incident())
        answer = picod_pb2.StatusResponse(
            sandbox_id=sandbox.sandbox_id,
            session_id=sandbox.session_id,
            ready=sandbox.ready,
            open_calls=sandbox.open_calls,
            last_fault=sandbox.shown_fault,
            isolation=self._isolation,
            identity=self._entry.identity(),
            refusals=self._entry.refusals,
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
        request: picod_pb2.RenewRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> picod_pb2.RenewResponse:
        """Put a new identity in the place of the one in use."""
        async with aborting(context, TABLE):
            self._sandbox.control_seen()
            source = self._entry.source
            if not isinstance(source, HandedSource):
                raise IdentityNotHandedError
            try:
                own = await source.take(handed_from_wire(request.identity))
            except MaterialError as error:
                raise IdentityRefusedError(str(error), fault=error.reason) from error
        return picod_pb2.RenewResponse(generation=own.generation)


def _contents(request: picod_pb2.BindRequest) -> Contents:
    files = [(each.path, each.content) for each in request.files]
    return Contents(files, dict(request.secrets))


def binding_from_wire(
    request: picod_pb2.BindRequest, environment: Mapping[str, str] = {}
) -> Binding:
    """Return the session that *request* tells of, with *environment* beside its own.

    Raises:
        InvalidRequestError: it is none.
    """
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
        environment={**request.environment, **environment},
        expires_at=expires_at,
    )
