"""Speaking to one PicoD over its second door."""

from __future__ import annotations

import socket
import struct
from datetime import UTC
from typing import TYPE_CHECKING

import grpc

from cubemesh.v1 import picod_pb2, picod_pb2_grpc, principal_pb2
from workloadmanager._engine import Activity
from workloadmanager._values import Isolation

if TYPE_CHECKING:
    from pathlib import Path

    from workloadmanager._engine import Order

__all__ = ["Control", "Report", "peer_pid"]

_OPTIONS = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.enable_http_proxy", 0),
    # PicoD ends itself when nobody holds this connection: keep it without calls.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
    ("grpc.use_local_subchannel_pool", 1),
)
_PATIENCE = 5.0


class Report:
    """What a PicoD says of itself."""

    def __init__(self, status: picod_pb2.StatusResponse) -> None:
        self.sandbox_id = status.sandbox_id
        self.session_id = status.session_id
        self.ready = status.ready
        self.last_fault = status.last_fault
        self.activity = Activity(
            status.open_calls, status.last_activity.ToDatetime(tzinfo=UTC)
        )
        self.isolation = Isolation(
            status.isolation.level,
            status.isolation.uid,
            status.isolation.own_uid,
            dict(status.isolation.limits),
        )


class Control:
    """The control connection to one PicoD, held as long as the sandbox is ours."""

    def __init__(self, path: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)
        self._stub = picod_pb2_grpc.SandboxControlStub(self._channel)

    async def bind(self, order: Order) -> None:
        """Give the sandbox its session."""
        owner = order.owner
        request = picod_pb2.BindRequest(
            session_id=order.session_id,
            owner=principal_pb2.Principal(
                issuer=owner.issuer, subject=owner.subject, display=owner.display
            ),
            environment=order.environment,
        )
        request.expires_at.FromDatetime(order.expires_at)
        await self._stub.Bind(request, timeout=_PATIENCE)

    async def report(self, patience: float = _PATIENCE) -> Report:
        """Ask the sandbox how it is."""
        request = picod_pb2.StatusRequest()
        return Report(await self._stub.Status(request, timeout=patience))

    async def shutdown(self, patience: float = 1.0) -> None:
        """Ask the sandbox to end itself."""
        await self._stub.Shutdown(picod_pb2.ShutdownRequest(), timeout=patience)

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._channel.close()


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
