"""Reach a server, wherever its name leads, and have it prove who it is."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tlsloader._address import connected
from tlsloader._context import handshake_reason, peer_chain
from tlsloader._end import End
from tlsloader._errors import DialFailedError, PeerRefusedError
from tlsloader._race import RaceLostError, race
from tlsloader._relay import LINGER
from tlsloader._verify import Peer, verify_peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from clock import Clock
    from tlsloader._address import Address
    from tlsloader._matchers import Allowlist
    from tlsloader._material import Material
    from tlsloader._spiffe import SpiffeID

    Resolve = Callable[[Address], Awaitable[Sequence[Address]]]

__all__ = ["Dial", "Resolve", "secure"]

_DELAY: Final = 0.25
"""Seconds after which the next address is tried, too. Source: RFC 8305, section 5."""

_WEAK: Final = ("unreachable", "timeout")
"""What says little about the server, if another address has more to say."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Reach a server that is *expected* at *address*, within *timeout* seconds.

    We show the identity *own*, which *context* holds. Each address to which the name
    leads is tried until one is proven: one after the other, but nobody waits long for
    one that says nothing.
    """

    expected: Allowlist
    address: Address
    own: Material
    context: ssl.SSLContext
    timeout: float
    clock: Clock
    resolve: Resolve

    async def run(self) -> tuple[End, Peer]:
        """Return the connection and whom it was proven to lead to.

        Raises:
            DialFailedError: there is no such connection; the text says why.
        """
        own = self.own
        if self.clock.now() >= own.not_after:
            text = f"our own identity {own.identity} expired at {own.not_after:%FT%TZ}"
            raise self.failed("own_identity_expired", text)
        end = asyncio.get_running_loop().time() + self.timeout
        try:
            async with asyncio.timeout_at(end):
                places = await self.resolve(self.address)
        except OSError as error:
            raise self._explained(error, self.address) from error
        ways = [partial(self._attempt, place, end) for place in places]
        try:
            return await race(ways, delay=_DELAY, drop=_drop)
        except RaceLostError as error:
            raise min(error.errors, key=_weakness) from None

    def failed(
        self, reason: str, text: str, presented: SpiffeID | None = None
    ) -> DialFailedError:
        """Make the error of this dial; its text names the server that was expected."""
        if str(self.expected) not in text:
            text += f"; expected {self.expected}"
        return DialFailedError(
            reason, text, expected=self.expected, presented=presented
        )

    async def _attempt(self, place: Address, until: float) -> tuple[End, Peer]:
        end = End()
        try:
            async with asyncio.timeout_at(until):
                await self._open(end, place)
                peer = self._judge(end)
                await self._first_byte(end, peer)
        except BaseException as error:
            if end.connected:
                end.transport.abort()
            if isinstance(error, OSError):
                raise self._explained(error, place) from error
            raise
        return end, peer

    async def _open(self, end: End, place: Address) -> None:
        sock = await connected(place, self.clock)
        await secure(end, sock, self.context, self.timeout)

    def _judge(self, end: End) -> Peer:
        tls: ssl.SSLObject = end.transport.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != "h2":
            raise self.failed("no_http2", "the server does not speak h2 (ALPN)")
        try:
            return verify_peer(
                peer_chain(tls),
                bundles=self.own.bundles,
                allow=self.expected,
                now=self.clock.now(),
            )
        except PeerRefusedError as error:
            raise self.refused(error) from error

    def refused(self, error: PeerRefusedError) -> DialFailedError:
        """Make the error of this dial from what speaks against the server."""
        presented = error.peer_id
        if presented is not None and not self.expected.admits(presented):
            text = f"server is {presented}, expected {self.expected}"
        else:
            text = f"server is not proven to be {self.expected}: {error}"
        return self.failed(error.reason, text, presented)

    async def _first_byte(self, end: End, peer: Peer) -> None:
        """Wait for the server's SETTINGS.

        With TLS 1.3 our handshake ends before the server has judged us, and it says
        nothing when it refuses: the first byte is the proof that it does not.
        """
        if not await end.heard:
            text = (
                f"the server {peer.id} closed the connection right after the "
                f"handshake: it most likely refuses us, {self.own.identity}"
            )
            raise self.failed("closed_after_handshake", text, peer.id)

    def _explained(self, error: OSError, place: Address) -> DialFailedError:
        at = f"{self.address}" if place == self.address else f"{self.address} ({place})"
        match error:
            case ssl.SSLCertVerificationError():
                domains = ", ".join(sorted(self.expected.trust_domains))
                text = (
                    f"the certificate of the server at {at} leads to no root of "
                    f"{domains} ({error.verify_message})"
                )
                return self.failed(handshake_reason(error), text)
            case ssl.SSLError() | ConnectionAbortedError() | ConnectionResetError():
                text = f"the TLS handshake with {at} failed: {error}"
                return self.failed(handshake_reason(error), text)
            case TimeoutError():
                text = f"no proven connection to {at} within {self.timeout:g} s"
                return self.failed("timeout", text)
            case _:
                text = f"cannot connect to {at}: {error.strerror or error}"
                return self.failed("unreachable", text)


async def secure(
    end: End, sock: socket.socket, context: ssl.SSLContext, seconds: float
) -> None:
    """Have TLS stand on the connected *sock*, and *end* at our side of it.

    Raises:
        OSError: the handshake failed, or took longer than *seconds*.
    """
    loop = asyncio.get_running_loop()
    create: Any = loop.create_connection
    if sock.family == socket.AF_UNIX:
        create = loop.create_unix_connection
    try:
        await create(
            lambda: end,
            sock=sock,
            ssl=context,
            # An SNI that no server expects would only make noise in its log
            server_hostname="",
            ssl_handshake_timeout=seconds,
            ssl_shutdown_timeout=LINGER,
        )
    except BaseException:
        sock.close()
        raise


def _weakness(error: BaseException) -> int:
    """Rank errors by how little they say; the first of the best is told."""
    reason = getattr(error, "reason", None)
    return _WEAK.index(reason) + 1 if reason in _WEAK else 0


def _drop(late: tuple[End, Peer]) -> None:
    """End a connection that nobody needs any more."""
    late[0].transport.abort()
