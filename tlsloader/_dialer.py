"""The TLS end behind a gRPC channel: dial, prove the server, carry bytes."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from typing import TYPE_CHECKING, Any, Final

from clock import SYSTEM, Clock
from tlsloader._address import Address, Listener
from tlsloader._carried import Carried
from tlsloader._context import client_context, handshake_reason, peer_chain
from tlsloader._errors import DialFailedError, PeerRefusedError
from tlsloader._matchers import Allowlist
from tlsloader._private import PrivateFolder, credentials
from tlsloader._refuser import Refuser
from tlsloader._relay import LINGER, End, Relay
from tlsloader._tasks import OwnTasks
from tlsloader._verify import Peer, verify_peer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tlsloader._material import Material
    from tlsloader._source import Source
    from tlsloader._spiffe import SpiffeID

__all__ = ["Dialer"]

_log = logging.getLogger(__name__)

_VERDICT: Final = 0.075
"""Seconds for which a failed dial answers for the next one."""

_RETRY: Final = 0.1


class Dialer:
    """The way from a gRPC channel to the one server that is *expected* at *address*.

    The channel's target is a private Unix socket, which `start` returns. Behind it
    each connection of the channel becomes a TLS connection on which the server has
    proven its SPIFFE ID, and shown that it accepts ours: only then do calls flow.
    A dial that fails answers the channel's calls with UNAVAILABLE and the reason,
    and is tried again for the next call, but not within 75 ms.

    The channel may outlive any number of rotations of either side.
    """

    def __init__(  # noqa: PLR0913
        self,
        source: Source,
        *,
        expected: SpiffeID,
        address: str,
        clock: Clock = SYSTEM,
        connect_timeout: float = 5.0,
        on_connected: Callable[[Peer], None] | None = None,
    ) -> None:
        self._source = source
        self._expected = expected
        self._allow = Allowlist.parse(str(expected))
        self._address = Address.parse(address)
        self._clock = clock
        self._timeout = connect_timeout
        self._on_connected = on_connected
        self._own = self._fresh()
        self._verdict: tuple[float, DialFailedError] | None = None
        self._folder: PrivateFolder | None = None
        self._listener: Listener | None = None
        self._accepting = OwnTasks()
        self._tasks = OwnTasks()
        self._carried: set[Carried] = set()
        self._leaving = False
        self._unsubscribe: Callable[[], None] = _nothing

    @property
    def connections(self) -> int:
        """How many proven connections are open."""
        return len(self._carried)

    async def start(self) -> str:
        """Return the target for the channel; nothing is dialled before it is used."""
        self._folder = PrivateFolder()
        address = Address(path=str(self._folder.path / "dial"))
        self._listener = await Listener.open(address)
        self._unsubscribe = self._source.subscribe(self._renew)
        self._own = self._fresh()
        self._accepting.start(self._accept(self._listener.sock))
        return str(address)

    async def drain(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Begin no new call and wait, at most *timeout* seconds, for those begun."""
        self._leaving = True
        for carried in self._carried:
            carried.relay.goaway()
        await self._tasks.wait(timeout)

    async def aclose(self) -> None:
        """End every connection now and remove the private socket."""
        self._unsubscribe()
        await self._accepting.end()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._tasks.end()
        if self._folder is not None:
            self._folder.remove()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                _log.warning("cannot accept", extra={"detail": str(error)})
                await self._clock.sleep(_RETRY)
                continue
            if credentials(connection).pid == os.getpid():
                self._tasks.start(self._serve(connection))
            else:
                # The channel of this very process is the only one that may come
                connection.close()
                _log.warning("peer refused", extra={"reason": "other_process"})

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        local = End()
        await loop.connect_accepted_socket(lambda: local, connection)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        try:
            # When the channel hangs up, nobody waits for this dial any more
            local.watch(task.cancel)
            remote, peer, own = await self._connect()
            await self._carry(Relay(server=remote, client=local), peer, own)
        except DialFailedError as error:
            await Refuser(local, str(error)).run()
        finally:
            local.transport.abort()

    async def _connect(self) -> tuple[End, Peer, Material]:
        if self._verdict is not None:
            until, error = self._verdict
            if self._clock.monotonic() < until:
                raise error
        try:
            return await self._dial()
        except DialFailedError as error:
            self._verdict = self._clock.monotonic() + _VERDICT, error
            _log.warning(
                "dial failed",
                extra={
                    "reason": error.reason,
                    "detail": str(error),
                    "expected": str(error.expected),
                    "presented": str(error.presented) if error.presented else None,
                    "address": str(self._address),
                },
            )
            raise

    async def _dial(self) -> tuple[End, Peer, Material]:
        own, context = self._own
        if self._leaving:
            raise self._failed("closing", "this way is being closed")
        if self._clock.now() >= own.not_after:
            text = f"our own identity {own.identity} expired at {own.not_after:%FT%TZ}"
            raise self._failed("own_identity_expired", text)
        remote = End()
        try:
            async with asyncio.timeout(self._timeout):
                await self._open(remote, context)
                peer = self._judge(remote)
                await self._first_byte(remote, own)
        except BaseException as error:
            if remote.connected:
                remote.transport.abort()
            if isinstance(error, OSError):
                raise self._explained(error) from error
            raise
        return remote, peer, own

    async def _open(self, remote: End, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        address = self._address
        how: dict[str, Any] = {
            "ssl": context,
            # An SNI that no server expects would only make noise in its log
            "server_hostname": "",
            "ssl_handshake_timeout": self._timeout,
            "ssl_shutdown_timeout": LINGER,
        }
        if address.path:
            await loop.create_unix_connection(lambda: remote, address.path, **how)
        else:
            await loop.create_connection(
                lambda: remote, address.host, address.port, **how
            )

    def _judge(self, remote: End) -> Peer:
        tls: ssl.SSLObject = remote.transport.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != "h2":
            raise self._failed("no_http2", "the server does not speak h2 (ALPN)")
        try:
            return verify_peer(
                peer_chain(tls),
                bundles=self._source.current().bundles,
                allow=self._allow,
                now=self._clock.now(),
            )
        except PeerRefusedError as error:
            presented = error.peer_id
            if presented is not None and presented != self._expected:
                text = f"server is {presented}, expected {self._expected}"
            else:
                text = f"server is not proven to be {self._expected}: {error}"
            raise self._failed(error.reason, text, presented) from error

    async def _first_byte(self, remote: End, own: Material) -> None:
        """Wait for the server's SETTINGS.

        With TLS 1.3 our handshake ends before the server has judged us, and it says
        nothing when it refuses: the first byte is the proof that it does not.
        """
        if not await remote.heard:
            text = (
                f"the server {self._expected} closed the connection right after the "
                f"handshake: it most likely refuses us, {own.identity}"
            )
            raise self._failed("closed_after_handshake", text)

    async def _carry(self, relay: Relay, peer: Peer, own: Material) -> None:
        carried = Carried(relay, peer, self._clock)
        self._carried.add(carried)
        self._verdict = None
        try:
            self._tell(peer, own)
            # A generation may have come during the dial
            if self._leaving or self._own[0] is not own:
                self._settle(carried)
            await carried.run()
        finally:
            self._carried.discard(carried)

    def _tell(self, peer: Peer, own: Material) -> None:
        _log.info(
            "peer proven",
            extra={
                "peer_id": str(peer.id),
                "peer_leaf_sha256": peer.leaf_sha256,
                "own_id": str(own.identity),
                "own_leaf_sha256": own.leaf_sha256,
                "generation": own.generation,
                "address": str(self._address),
            },
        )
        if self._on_connected is not None:
            self._on_connected(peer)

    def _fresh(self) -> tuple[Material, ssl.SSLContext]:
        own = self._source.current()
        return own, client_context(own, self._allow.trust_domains)

    def _renew(self, _material: Material) -> None:
        """Take the new generation for new connections and let the old ones drain."""
        self._own = self._fresh()
        self._verdict = None
        for carried in self._carried:
            self._settle(carried)

    def _settle(self, carried: Carried) -> None:
        """Let a connection of an older generation end: by and by, or now."""
        error = carried.judge(self._own[0].bundles, self._allow)
        if error is None:
            carried.relay.goaway()
            return
        carried.relay.abort()
        _log.warning(
            "peer refused",
            extra={
                "reason": error.reason,
                "detail": str(error),
                "peer_id": str(error.peer_id) if error.peer_id else None,
            },
        )

    def _explained(self, error: OSError) -> DialFailedError:
        address = self._address
        match error:
            case ssl.SSLCertVerificationError():
                domain = self._expected.trust_domain
                text = (
                    f"the certificate of the server at {address} leads to no root of "
                    f"{domain} ({error.verify_message}); expected {self._expected}"
                )
                return self._failed(handshake_reason(error), text)
            case ssl.SSLError() | ConnectionAbortedError() | ConnectionResetError():
                text = f"the TLS handshake with {address} failed: {error}"
                return self._failed(handshake_reason(error), text)
            case TimeoutError():
                text = f"no proven connection to {address} within {self._timeout:g} s"
                return self._failed("timeout", text)
            case _:
                text = f"cannot connect to {address}: {error.strerror or error}"
                return self._failed("unreachable", text)

    def _failed(
        self, reason: str, text: str, presented: SpiffeID | None = None
    ) -> DialFailedError:
        return DialFailedError(
            reason, text, expected=self._expected, presented=presented
        )


def _nothing() -> None:
    """Stand for a subscription that there is not."""
