"""The connection to the Router: gRPC's own TLS, our certificate always the newest.

gRPC cannot change the certificate of a channel, so there is one channel per identity:
new calls go over the newest, an older one closes when its last call is over.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cubemesh._errors import ConfigurationError
from cubemesh._identity import Identity, stamps_of
from cubemesh._tracing import TracedChannel
from cubemesh.v1.picod_pb2_grpc import PicoDStub
from cubemesh.v1.router_pb2_grpc import SessionsStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cubemesh._profile import Profile
    from cubemesh.v1.picod_pb2_grpc import PicoDAsyncStub
    from cubemesh.v1.router_pb2_grpc import SessionsAsyncStub

_LOOK_EVERY = 1.0  # seconds between two looks at the content past half life
_REPEATABLE = {
    "cubemesh.v1.Sessions": (
        "GetSession",
        "ListSessions",
        "ListTemplates",
    ),
    "cubemesh.v1.PicoD": ("ListDirectory", "ReadFile", "Stat"),
}
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method}
                for service, methods in _REPEATABLE.items()
                for method in methods
            ],
            "retryPolicy": _RETRY,
        }
    ]
}


class Line:
    """One channel with one identity, and the calls under way on it."""

    def __init__(self, profile: Profile, identity: Identity) -> None:
        self.identity = identity
        self.channel = _open(profile, identity)
        traced: Any = TracedChannel(self.channel)
        self.sessions: SessionsAsyncStub = SessionsStub(traced)
        self.picod: PicoDAsyncStub = PicoDStub(traced)
        self.calls = 0
        self.retired = False


class Connection:
    """The way to one mesh for one event loop."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._paths = [
            Path(p) for p in (profile.ca_file, profile.cert_file, profile.key_file)
        ]
        self._line: Line | None = None
        self._loading = asyncio.Lock()
        self._looked = 0.0

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        """Lend the newest channel for one call.

        Raises:
            ConfigurationError: the files of our identity cannot be used.

        """
        line = await self._newest()
        line.calls += 1
        try:
            yield line
        finally:
            line.calls -= 1
            await _close_if_idle(line)

    async def aclose(self) -> None:
        """Close; calls under way keep their channel until they are over."""
        if self._line is not None:
            self._line.retired = True
            await _close_if_idle(self._line)

    async def _newest(self) -> Line:
        line = self._line
        if line is None or self._is_due(line.identity):
            # Whoever comes meanwhile waits, too: the old identity may be over by now.
            async with self._loading:
                await self._look_again(line)
        assert self._line is not None  # noqa: S101 - made above, never taken back
        return self._line

    async def _look_again(self, seen: Line | None) -> None:
        if self._line is not seen:
            return  # somebody else did while we waited
        if seen is None:
            identity = await asyncio.to_thread(Identity.load, self._profile)
            self._line = Line(self._profile, identity)
        elif self._is_due(seen.identity):
            await self._renew(seen)

    async def _renew(self, old: Line) -> None:
        """Put a new line in the place of *old* if the files really changed.

        Files that cannot be used now leave the old one in place: the next call looks
        again, and an identity that is over is refused by the Router itself.
        """
        self._looked = time.monotonic()
        try:
            fresh = await asyncio.to_thread(Identity.load, self._profile, wait=0)
        except ConfigurationError:
            return
        if fresh.same(old.identity):
            old.identity = fresh  # only the stamps are new
            return
        self._line = Line(self._profile, fresh)
        old.retired = True
        await _close_if_idle(old)

    def _is_due(self, identity: Identity) -> bool:
        try:
            if stamps_of(self._paths) != identity.stamps:
                return True
        except OSError:
            return False
        validity = identity.validity
        late = validity is not None and datetime.now(UTC) > validity.half  # noqa: TID251 - the SDK has no clock to be given
        return late and time.monotonic() - self._looked > _LOOK_EVERY


async def _close_if_idle(line: Line) -> None:
    if line.retired and not line.calls:
        await line.channel.close()


def _open(profile: Profile, identity: Identity) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        identity.ca, identity.key, identity.chain
    )
    options = (
        ("grpc.ssl_target_name_override", profile.server_name),
        ("grpc.default_authority", profile.server_name),
        ("grpc.enable_http_proxy", 0),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 1 << 20),
        # min_reconnect_backoff_ms stays as it is: it bounds each attempt as well, and a
        # Router may be far away
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    )
    return grpc.aio.secure_channel(profile.address, credentials, options=options)
