"""One attempt to reach a server and to have it prove who it is."""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlsloader._address import LONGEST_PATH
from tlsloader._context import handshake_reason, peer_chain
from tlsloader._end import End
from tlsloader._errors import DialFailedError, PeerRefusedError
from tlsloader._matchers import Allowlist
from tlsloader._relay import LINGER
from tlsloader._verify import Peer, verify_peer

if TYPE_CHECKING:
    from datetime import datetime

    from tlsloader._address import Address
    from tlsloader._material import Material
    from tlsloader._spiffe import SpiffeID

__all__ = ["Dial"]


@dataclass(frozen=True, slots=True)
class Dial:
    """Reach the server *expected* at *address*, within *timeout* seconds.

    We show the identity *own*, which *context* holds.
    """

    expected: SpiffeID
    address: Address
    own: Material
    context: ssl.SSLContext
    timeout: float

    async def run(self, now: datetime) -> tuple[End, Peer]:
        """Return the connection and whom it was proven to lead to.

        Raises:
            DialFailedError: there is no such connection; the text says why.
        """
        own = self.own
        if now >= own.not_after:
            text = f"our own identity {own.identity} expired at {own.not_after:%FT%TZ}"
            raise self.failed("own_identity_expired", text)
        end = End()
        try:
            async with asyncio.timeout(self.timeout):
                await self._open(end)
                peer = self._judge(end, now)
                await self._first_byte(end)
        except BaseException as error:
            if end.connected:
                end.transport.abort()
            if isinstance(error, OSError):
                raise self._explained(error) from error
            raise
        return end, peer

    def failed(
        self, reason: str, text: str, presented: SpiffeID | None = None
    ) -> DialFailedError:
        """Make the error of this dial."""
        return DialFailedError(
            reason, text, expected=self.expected, presented=presented
        )

    async def _open(self, end: End) -> None:
        loop = asyncio.get_running_loop()
        address = self.address
        how: dict[str, Any] = {
            "ssl": self.context,
            # An SNI that no server expects would only make noise in its log
            "server_hostname": "",
            "ssl_handshake_timeout": self.timeout,
            "ssl_shutdown_timeout": LINGER,
        }
        if address.path:
            # libuv would cut the path and might reach somebody else's socket
            if len(os.fsencode(address.path)) > LONGEST_PATH:
                raise OSError(f"the path is too long: {LONGEST_PATH} bytes at most")
            await loop.create_unix_connection(lambda: end, address.path, **how)
        else:
            await loop.create_connection(lambda: end, address.host, address.port, **how)

    def _judge(self, end: End, now: datetime) -> Peer:
        tls: ssl.SSLObject = end.transport.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != "h2":
            raise self.failed("no_http2", "the server does not speak h2 (ALPN)")
        try:
            return verify_peer(
                peer_chain(tls),
                bundles=self.own.bundles,
                allow=Allowlist.parse(str(self.expected)),
                now=now,
            )
        except PeerRefusedError as error:
            presented = error.peer_id
            if presented is not None and presented != self.expected:
                text = f"server is {presented}, expected {self.expected}"
            else:
                text = f"server is not proven to be {self.expected}: {error}"
            raise self.failed(error.reason, text, presented) from error

    async def _first_byte(self, end: End) -> None:
        """Wait for the server's SETTINGS.

        With TLS 1.3 our handshake ends before the server has judged us, and it says
        nothing when it refuses: the first byte is the proof that it does not.
        """
        if not await end.heard:
            text = (
                f"the server {self.expected} closed the connection right after the "
                f"handshake: it most likely refuses us, {self.own.identity}"
            )
            raise self.failed("closed_after_handshake", text)

    def _explained(self, error: OSError) -> DialFailedError:
        address = self.address
        match error:
            case ssl.SSLCertVerificationError():
                domain = self.expected.trust_domain
                text = (
                    f"the certificate of the server at {address} leads to no root of "
                    f"{domain} ({error.verify_message}); expected {self.expected}"
                )
                return self.failed(handshake_reason(error), text)
            case ssl.SSLError() | ConnectionAbortedError() | ConnectionResetError():
                text = f"the TLS handshake with {address} failed: {error}"
                return self.failed(handshake_reason(error), text)
            case TimeoutError():
                text = f"no proven connection to {address} within {self.timeout:g} s"
                return self.failed("timeout", text)
            case _:
                text = f"cannot connect to {address}: {error.strerror or error}"
                return self.failed("unreachable", text)
