"""The two ways to a sandbox: mutual TLS, or a token over a private socket."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from auth import KeysError
from router._errors import SandboxUnreachableError
from serving import begun
from tlsloader import SpiffeID, TLSLoaderError
from tlsloader.grpc import channel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc

    from auth import Signer
    from router._callers import Caller
    from router._sessions import Door, Session
    from tlsloader import Dialer

__all__ = ["ByCertificate", "ByToken", "Line", "Way"]

_log = logging.getLogger("router")

Introduction = tuple[tuple[str, str | bytes], ...]


class Line:
    """An open channel to one sandbox and how to close what lies under it."""

    __slots__ = ("_close", "channel")

    def __init__(
        self, target: str, close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.channel: grpc.aio.Channel = channel(target)
        self._close = close

    def dial(self) -> None:
        """Begin to connect, before there is a call."""
        self.channel.get_state(try_to_connect=True)

    async def aclose(self) -> None:
        """Cancel the calls under way and free everything."""
        await self.channel.close()
        if self._close is not None:
            await self._close()


class Way(Protocol):
    """How the Router reaches sandboxes and says for whom it calls."""

    async def connect(self, door: Door) -> Line:
        """Open the line to the sandbox at *door*; nothing is dialled yet.

        Raises:
            SandboxUnreachableError: its address or identity cannot be right.
        """

    def introduce(self, session: Session, caller: Caller) -> Introduction:
        """Return the metadata that tell the sandbox who calls.

        Raises:
            SandboxUnreachableError: nothing can vouch for the caller now.
        """


class ByCertificate:
    """Mutual TLS; the sandbox must prove the very identity it was made with."""

    def __init__(self, dialer: Callable[..., Dialer]) -> None:
        self._dialer = dialer

    async def connect(self, door: Door) -> Line:
        """Put a dialer behind the channel that expects exactly this sandbox."""
        try:
            dialer = self._dialer(
                expected=SpiffeID.parse(door.spiffe_id),
                address=door.address,
                on_connected=begun("router.handshake"),
            )
            return Line(await dialer.start(), dialer.aclose)
        except (TLSLoaderError, ValueError, OSError) as error:
            raise _unreachable(door, str(error)) from error

    def introduce(self, session: Session, caller: Caller) -> Introduction:
        """Name the principal; our certificate vouches for it."""
        del session
        return caller.introduction


class ByToken:
    """A signed token on a Unix socket that no other sandbox can see."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    async def connect(self, door: Door) -> Line:
        """Connect in plain text, and therefore to Unix sockets only."""
        if not door.address.startswith("unix:/"):
            raise _unreachable(door, "without TLS only Unix sockets are reached")
        return Line(door.address)

    def introduce(self, session: Session, caller: Caller) -> Introduction:
        """Sign for the principal; the token is good in this sandbox only."""
        try:
            token = self._signer.token(
                session.session_id, session.sandbox_id, caller.principal
            )
        except KeysError as error:
            raise _unreachable(session.door, str(error)) from error
        return (("authorization", f"Bearer {token}"),)


def _unreachable(door: Door, detail: str) -> SandboxUnreachableError:
    """Return what the caller reads; *detail* is for our log."""
    _log.warning("sandbox unreachable", extra={**door._asdict(), "detail": detail})
    return SandboxUnreachableError("the sandbox cannot be reached")
