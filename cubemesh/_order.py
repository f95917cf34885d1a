"""What a sandbox is to be, as one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cubemesh._errors import HINTS, InvalidRequestError
from cubemesh._paths import to_bytes
from cubemesh._times import to_duration
from cubemesh.v1 import picod_pb2, router_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

_FILES = 2 << 20  # what the mesh takes, in bytes; a message ends at 4 MiB
_SECRETS = 256 << 10


def order(  # noqa: PLR0913 - all are keywords
    *,
    template: str,
    lifetime: float | timedelta | None,
    idle_timeout: float | timedelta | None,
    environment: Mapping[str, str] | None,
    files: Mapping[str, bytes | str] | None,
    secrets: Mapping[str, bytes | str] | None,
) -> router_pb2.SessionsCreateSessionRequest:
    """Return the message for this; for the meaning see `AsyncSandbox.create`.

    Raises:
        InvalidRequestError: files or secrets are larger than the mesh takes.

    """
    placed = {to_bytes(path): _bytes(data) for path, data in (files or {}).items()}
    hidden = {name: _bytes(value) for name, value in (secrets or {}).items()}
    _bound("files", placed.items(), _FILES)
    _bound("secrets", hidden.items(), _SECRETS)
    request = router_pb2.SessionsCreateSessionRequest(
        template=template,
        environment=environment or {},
        files=[picod_pb2.NewFile(path=p, content=c) for p, c in placed.items()],
        secrets=hidden,
    )
    if lifetime is not None:
        request.lifetime.CopyFrom(to_duration(lifetime))
    if idle_timeout is not None:
        request.idle_timeout.CopyFrom(to_duration(idle_timeout))
    return request


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _bound(field: str, items: Iterable[tuple[bytes | str, bytes]], most: int) -> None:
    """Refuse here what gRPC would refuse without telling which limit it is."""
    if sum(len(name) + len(content) for name, content in items) > most:
        raise InvalidRequestError(
            f"{field}: at most {most >> 10} KiB can be given",
            reason="BINDING_TOO_LARGE",
            code="INVALID_ARGUMENT",
            metadata={"field": field},
            hint=HINTS["BINDING_TOO_LARGE"],
        )
