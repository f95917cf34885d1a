"""gRPC on top of proven connections: options, channels and the gate.

With `_agent`, `_channel`, `_gate` and `_handlers` the only gRPC imports of this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlsloader._channel import opened
from tlsloader._gate import CALLER, Gate

if TYPE_CHECKING:
    import grpc.aio

__all__ = [
    "CALLER",
    "CHANNEL_OPTIONS",
    "FRONT_SERVER_OPTIONS",
    "SERVER_OPTIONS",
    "Gate",
    "channel",
]

_MIB: Final = 1 << 20
_KIB: Final = 1 << 10

_BOTH: Final = (
    # The probe would let windows grow to megabytes in front of a slow reader
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _MIB),
    ("grpc.max_receive_message_length", 4 * _MIB),
    ("grpc.max_send_message_length", 4 * _MIB),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
# Soft and hard limit alike: between them calls would be refused at random
_METADATA: Final = (
    ("grpc.max_metadata_size", 64 * _KIB),
    ("grpc.absolute_max_metadata_size", 64 * _KIB),
)
_FRONT_METADATA: Final = (
    ("grpc.max_metadata_size", 16 * _KIB),
    ("grpc.absolute_max_metadata_size", 16 * _KIB),
)

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *_BOTH,
    *_METADATA,
    # http_proxy in the environment would catch even 127.0.0.1
    ("grpc.enable_http_proxy", 0),
    # min_reconnect_backoff_ms stays at its 20 s: it bounds each attempt as well, which
    # is over only when the dialer has its answer
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""For every channel inside the mesh."""

_SERVER: Final = (
    *_BOTH,
    # A second service on the same port must fail, not take half of the calls
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (*_SERVER, *_METADATA)
"""For servers behind the Router, which adds metadata to what it took in."""

FRONT_SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (*_SERVER, *_FRONT_METADATA)
"""For the Router's own server: less metadata than the servers behind it take."""


def channel(target: str) -> grpc.aio.Channel:
    """Open a channel to *target*, the private Unix socket of a `Dialer`.

    Raises:
        ForkedError: this process was forked from one that has used gRPC. Calls on a
            channel that a child inherits raise the same.
    """
    return opened(target, CHANNEL_OPTIONS)
