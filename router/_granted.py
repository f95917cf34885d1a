"""The leave of one call to reach its sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from router._errors import RouterError, SandboxTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from router._channels import Upstream
    from router._sessions import Session

    Metadata = tuple[tuple[str, str | bytes], ...]

__all__ = ["Granted"]

_LOST = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED))


class Granted:
    """One call's leave; see `router._forward.Passage`.

    *why_lost* finds out why a connection broke; *closed* is called once at the end.
    """

    __slots__ = (
        "_closed",
        "_why_lost",
        "code",
        "keep",
        "metadata",
        "news",
        "session",
        "start",
        "told",
        "upstream",
    )

    def __init__(
        self,
        session: Session,
        upstream: Upstream,
        why_lost: Callable[[Session, str], Awaitable[RouterError]],
        closed: Callable[[Granted], None],
    ) -> None:
        self.session, self.upstream = session, upstream
        self._why_lost, self._closed = why_lost, closed
        self.start: Any = None
        self.metadata: Metadata = ()
        self.news: Metadata = ()
        self.told = False
        # Whether a session that this call made lives on though nobody heard of it.
        self.keep = False
        self.code = grpc.StatusCode.CANCELLED

    async def explain(self, code: grpc.StatusCode, details: str) -> RouterError | None:
        """Name the fault behind what our own channel says of the connection."""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return SandboxTimeoutError("the sandbox did not answer in time")
        if code in _LOST:
            return await self._why_lost(self.session, details)
        return None

    def close(self) -> None:
        """Note that the call is over."""
        self._closed(self)
