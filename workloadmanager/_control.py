"""Speaking to one PicoD over its second door."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.protobuf import json_format
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from cubemesh.v1 import picod_pb2, picod_pb2_grpc, principal_pb2
from serving import carried
from workloadmanager._engine import Activity
from workloadmanager._errors import RenewalError
from workloadmanager._values import Isolation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from workloadmanager._engine import Binding
    from workloadmanager._identities import Handover

__all__ = [
    "Control",
    "Report",
    "binding_to_wire",
    "identity_to_wire",
    "isolation_from",
    "peer_pid",
    "refused_contents",
]

_OPTIONS = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.enable_http_proxy", 0),
    # PicoD ends itself when nobody holds this connection: keep it without calls.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    ("grpc.use_local_subchannel_pool", 1),
)
_PATIENCE = 5.0
_SERVICE = "cubemesh.v1.SandboxControl"
# Refusals that are not about files and secrets.
_OTHERS = frozenset(
    (
        "ALREADY_BOUND",
        "DENIED",
        "INTERNAL",
        "RUNNER_FAULT",
        "SHUTTING_DOWN",
        "UNAUTHENTICATED",
    )
)


@dataclass(frozen=True, slots=True)
class Report:
    """What a PicoD says of itself."""

    sandbox_id: str
    session_id: str
    ready: bool
    last_fault: str
    activity: Activity
    isolation: Isolation

    @classmethod
    def of(cls, status: picod_pb2.StatusResponse) -> Self:
        """Return what *status* says."""
        return cls(
            status.sandbox_id,
            status.session_id,
            status.ready,
            status.last_fault,
            Activity(
                status.open_calls,
                status.last_activity.ToDatetime(tzinfo=UTC),
                status.last_fault,
            ),
            _isolation(status.isolation),
        )


class Control:
    """The control connection to one PicoD, held as long as the sandbox is ours."""

    def __init__(self, path: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)
        self._stub = picod_pb2_grpc.SandboxControlStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def bind(self, binding: Binding, patience: float = _PATIENCE) -> None:
        """Give the sandbox its session."""
        request = binding_to_wire(binding)
        await self._stub.Bind(request, timeout=patience, metadata=carried())

    async def report(self, patience: float = _PATIENCE) -> Report:
        """Ask the sandbox how it is."""
        request = picod_pb2.StatusRequest()
        status = await self._stub.Status(request, timeout=patience, metadata=carried())
        return Report.of(status)

    async def renew(self, given: Handover) -> None:
        """Hand the sandbox its next identity.

        Raises:
            RenewalError: it did not take it, or is not there.
        """
        request = picod_pb2.RenewRequest(identity=identity_to_wire(given))
        try:
            await self._stub.Renew(request, timeout=_PATIENCE)
        except grpc.aio.AioRpcError as error:
            text = f"{error.code().name}: {error.details()}"
            raise RenewalError(_fault(error), text) from error

    async def unwell(self) -> Report:
        """Return what the sandbox says once it is not well any more."""
        request = health_pb2.HealthCheckRequest(service=_SERVICE)
        call = self._health.Watch(request)
        try:
            async for answer in call:
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    break
        finally:
            call.cancel()
            del call  # a call that is referred to keeps the connection open
        return await self.report()

    async def shutdown(self, patience: float = 1.0) -> None:
        """Ask the sandbox to end itself."""
        await self._stub.Shutdown(picod_pb2.ShutdownRequest(), timeout=patience)

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._channel.close()


def binding_to_wire(binding: Binding) -> picod_pb2.BindRequest:
    """Return the message that tells of *binding*."""
    owner = binding.owner
    request = picod_pb2.BindRequest(
        session_id=binding.session_id,
        owner=principal_pb2.Principal(
            issuer=owner.issuer, subject=owner.subject, display=owner.display
        ),
        environment=binding.environment,
        files=[
            picod_pb2.NewFile(path=path, content=content)
            for path, content in binding.contents.files
        ],
        secrets=binding.contents.secrets,
    )
    request.expires_at.FromDatetime(binding.expires_at)
    return request


def isolation_from(said: Mapping[str, Any]) -> Isolation:
    """Return what a PicoD says of its isolation when it is ready."""
    message = json_format.ParseDict(said.get("isolation", {}), picod_pb2.Isolation())
    return _isolation(message)


def _isolation(said: picod_pb2.Isolation) -> Isolation:
    return Isolation(
        said.level,
        said.uid,
        said.own_uid,
        dict(said.limits),
        said.limits_by,
        said.network,
    )


def identity_to_wire(given: Handover) -> picod_pb2.Identity:
    """Return the message that hands *given* over."""
    return picod_pb2.Identity(
        key=given.issued.key,
        chain=given.issued.chain,
        bundle=given.bundle,
        foreign_bundles=given.foreign,
    )


def refused_contents(error: grpc.aio.AioRpcError) -> str:
    """Return for which reason the sandbox does not take what is to be in it.

    Empty: it did not say, or something else is wrong with it.
    """
    reason = _info(error).reason
    return "" if reason in _OTHERS else reason


def _fault(error: grpc.aio.AioRpcError) -> str:
    """Return what was wrong with the identity, or else with the call."""
    info = _info(error)
    reason = info.metadata.get("fault") or info.reason or error.code().name
    return str(reason.lower())


def _info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    status, info = rpc_status.from_call(error), ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            break
    return info


def peer_pid(path: Path) -> int:
    """Return which process listens on the Unix socket at *path*. Blocks.

    Source: unix(7), SO_PEERCRED.

    Raises:
        OSError: nobody does.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(path))
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("iII", raw)[0]
    return pid
