"""Sessions: making, finding and ending them; the connection they share."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from cubemesh._calls import translated
from cubemesh._channel import Connection
from cubemesh._errors import ConfigurationError
from cubemesh._profile import Profile, locate
from cubemesh._times import to_duration
from cubemesh._values import session_from
from cubemesh.v1 import router_pb2

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta
    from pathlib import Path

    from cubemesh._channel import Line
    from cubemesh._values import SessionInfo

CALL = 30.0  # the deadline of a small call, in seconds
CREATE = 120.0  # the deadline of making a sandbox, in seconds
LINGER = 30.0  # seconds a connection waits for the next user: a handshake takes long
_PAGE = 1000
_SHARED: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Profile, Mesh]] = (
    WeakKeyDictionary()
)


class Mesh:
    """One mesh, as its sessions see it; shared by all who use it on one event loop."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._connection = Connection(profile)
        self._users = 0
        self._lingering: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def join(cls, profile: Profile | Path | str | None) -> Mesh:
        """Return the mesh of *profile*; each join needs one `leave`."""
        if not isinstance(profile, Profile):
            profile = Profile.load(locate(None if profile is None else str(profile)))
        meshes = _SHARED.setdefault(asyncio.get_running_loop(), {})
        mesh = meshes.setdefault(profile, cls(profile))
        mesh._enter()  # noqa: SLF001 - ours
        return mesh

    def leave(self) -> None:
        """Close the connection, unless somebody joins within `LINGER` seconds."""
        self._users -= 1
        if not self._users:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(LINGER, self._close, loop)

    def _enter(self) -> None:
        self._users += 1
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        del _SHARED[loop][self._profile]
        self._closing = loop.create_task(self._connection.aclose())

    def line(self) -> AbstractAsyncContextManager[Line]:
        """Lend the channel for one call."""
        return self._connection.line()

    async def create(
        self, request: router_pb2.SessionsCreateSessionRequest
    ) -> SessionInfo:
        """Make a sandbox; a repetition by the transport makes no second one."""
        key = (("x-cubemesh-idempotency-key", secrets.token_hex(16)),)
        answer = await self._ask("CreateSession", request, CREATE, key)
        return session_from(answer.session)

    async def get(self, session_id: str) -> SessionInfo:
        """Tell about one session."""
        request = router_pb2.SessionsGetSessionRequest(session_id=session_id)
        return session_from((await self._ask("GetSession", request)).session)

    async def list(self) -> tuple[SessionInfo, ...]:
        """Tell about all live sessions of ours, oldest first."""
        found: list[SessionInfo] = []
        token = ""
        while True:
            request = router_pb2.SessionsListSessionsRequest(
                page_size=_PAGE, page_token=token
            )
            answer = await self._ask("ListSessions", request)
            found += [session_from(session) for session in answer.sessions]
            token = answer.next_page_token
            if not token:
                return tuple(found)

    async def extend(self, session_id: str, lifetime: float | timedelta) -> SessionInfo:
        """Move the end of a session to *lifetime* from now."""
        request = router_pb2.SessionsExtendSessionRequest(
            session_id=session_id, lifetime=to_duration(lifetime)
        )
        return session_from((await self._ask("ExtendSession", request)).session)

    async def delete(self, session_id: str) -> None:
        """End a session."""
        request = router_pb2.SessionsDeleteSessionRequest(session_id=session_id)
        await self._ask("DeleteSession", request)

    async def _ask(
        self,
        method: str,
        request: Any,
        deadline: float = CALL,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        async with self.line() as line:
            with translated():
                return await getattr(line.sessions, method)(
                    request, timeout=deadline, metadata=metadata
                )


class Session:
    """One session's calls: the channel, and the metadata that names it."""

    def __init__(self, mesh: Mesh, session_id: str) -> None:
        self.mesh = mesh
        self.session_id = session_id
        self.metadata = (("x-agentcube-session-id", session_id),)
        self.is_open = True

    def line(self) -> AbstractAsyncContextManager[Line]:
        """Lend the channel for one call.

        Raises:
            ConfigurationError: it was closed.

        """
        if not self.is_open:
            message = "this sandbox was closed"
            raise ConfigurationError(message)
        return self.mesh.line()

    def close(self) -> None:
        """Let go of the mesh; calls under way go on."""
        if self.is_open:
            self.is_open = False
            self.mesh.leave()

    async def ask(
        self, call: Callable[[Line], Callable[..., Any]], request: Any
    ) -> Any:
        """Make one unary call."""
        async with self.line() as line:
            with translated():
                return await call(line)(request, timeout=CALL, metadata=self.metadata)
