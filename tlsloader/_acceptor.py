"""The TLS end in front of our gRPC servers."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

from clock import SYSTEM, Clock
from tlsloader._carried import FOR_A_WHILE
from tlsloader._context import handshake_reason, peer_chain, server_context
from tlsloader._door import Door
from tlsloader._end import End
from tlsloader._errors import PeerRefusedError
from tlsloader._guests import Proven
from tlsloader._relay import LINGER
from tlsloader._slots import Slots
from tlsloader._tasks import OwnTasks
from tlsloader._verify import Peer, recheck, verify_peer

if TYPE_CHECKING:
    import ssl

    from tlsloader._carried import Carried, Stay
    from tlsloader._context import TLSVersion
    from tlsloader._matchers import Allowlist
    from tlsloader._material import Material
    from tlsloader._source import Source
    from tlsloader._spiffe import SpiffeID

__all__ = ["Acceptor"]

_log = logging.getLogger(__name__)

_HANDSHAKE: Final = b"\x16"
_FEW: Final = 16
_PATIENCE: Final = 0.05
"""Seconds that a handshake keeps its place while others wait for one."""


class Acceptor(Door):
    """The TLS end in front of a gRPC server.

    It proves each client before any HTTP/2 byte flows: a certificate of an identity
    that *allow* admits, by the roots of that identity's own trust domain. With
    ``client_certificate="optional"`` a client may also show none at all.

    At most *max_handshakes* begin at a time, so that each is done soon; addresses take
    turns, and none waits for another that is mute. Each connection has
    *handshake_timeout* seconds to prove itself; those that say nothing cost no
    handshake at all. A port that is *shared_port* may have other
    processes listen, too (SO_REUSEPORT).
    """

    def __init__(  # noqa: PLR0913
        self,
        source: Source,
        *,
        allow: Allowlist,
        client_certificate: Literal["required", "optional"] = "required",
        minimum_tls: TLSVersion = "1.3",
        clock: Clock = SYSTEM,
        max_handshakes: int = 8,
        handshake_timeout: float = 5.0,
        max_connections: int = 4096,
        stay: Stay = FOR_A_WHILE,
        name: str = "data",
        shared_port: bool = False,
    ) -> None:
        super().__init__(
            name=name,
            clock=clock,
            max_connections=max_connections,
            stay=stay,
            shared_port=shared_port,
        )
        self._source = source
        self._allow = allow
        self._certificate = client_certificate
        self._minimum_tls = minimum_tls
        self._timeout = handshake_timeout
        self._slots = Slots(max_handshakes, patience=_PATIENCE)
        self._judging = OwnTasks()
        self._gaps: tuple[str, ...] | None = None
        self._own = self._fresh()
        self._tell_gaps()
        self._unsubscribe = source.subscribe(self._renew)

    def peer(self, context_peer: str) -> Peer | None:
        """Return who is behind a handler's ``context.peer()``, proven still.

        ``None``: the client showed no certificate, where that is optional.

        Raises:
            PeerRefusedError: dates, bundles or allowlist speak against it by now, or
                nobody proved this connection.

        """
        carried = self._guests.find(context_peer)
        if carried.peer is None:
            return None
        carried.peer = recheck(
            carried.peer,
            bundles=self._source.current().bundles,
            allow=self._allow,
            now=self._clock.now(),
        )
        return carried.peer

    def change_allowlist(self, allow: Allowlist) -> None:
        """Admit only *allow* from now on; who is not on it any more is evicted."""
        self._allow = allow
        self._own = self._fresh()
        self._tell_gaps()
        self._judging.start(self._judge_all())

    def evict(self, identity: SpiffeID, error: PeerRefusedError) -> None:
        """End the connections of *identity* because of *error*; it may come anew."""
        for carried in self._guests:
            if carried.peer is not None and carried.peer.id == identity:
                self._guests.evict(carried, error)

    async def aclose(self) -> None:
        """Stop listening, end every connection now and remove the private folder."""
        self._unsubscribe()
        await self._judging.end()
        await super().aclose()

    async def _prove(self, connection: socket.socket) -> Proven:
        end = End()
        try:
            async with asyncio.timeout(self._timeout):
                await _client_hello(connection)
                async with self._slots.place(_origin(connection)):
                    own = await self._shake_hands(end, connection)
            return Proven(end, self._judge(end), own)
        except BaseException as error:
            if end.connected:
                end.transport.abort()
            if isinstance(error, OSError):
                raise PeerRefusedError(handshake_reason(error), _text(error)) from error
            raise

    async def _shake_hands(self, end: End, connection: socket.socket) -> Material:
        # With TLS 1.2 a context must serve one connection only
        own, context = self._own if self._minimum_tls == "1.3" else self._fresh()
        if self._clock.now() >= own.not_after:
            text = f"our own identity {own.identity} expired at {own.not_after:%FT%TZ}"
            raise PeerRefusedError("own_identity_expired", text)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: end,
            connection,
            ssl=context,
            ssl_handshake_timeout=self._timeout,
            ssl_shutdown_timeout=LINGER,
        )
        return own

    def _judge(self, end: End) -> Peer | None:
        tls: ssl.SSLObject = end.transport.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != "h2":
            raise PeerRefusedError("no_http2", "the peer does not speak h2 (ALPN)")
        chain = peer_chain(tls)
        if not chain and self._certificate == "optional":
            return None
        return verify_peer(
            chain,
            bundles=self._source.current().bundles,
            allow=self._allow,
            now=self._clock.now(),
        )

    def _fresh(self) -> tuple[Material, ssl.SSLContext]:
        own = self._source.current()
        domains = self._allow.trust_domains
        return own, server_context(own, domains, self._certificate, self._minimum_tls)

    def _renew(self, _material: Material) -> None:
        """Take the new generation for new connections and let the old ones drain."""
        self._own = self._fresh()
        self._tell_gaps()
        self._judging.start(self._judge_all())
        for carried in self._guests:
            carried.leave()

    def _tell_gaps(self) -> None:
        """Say loudly, once, whom this door cannot let in for want of rules or roots."""
        known = self._source.current().bundles
        gaps = tuple(sorted(self._allow.trust_domains - known.keys()))
        if not self._allow.matchers:
            gaps = ("",)
        if gaps == self._gaps:
            return
        self._gaps = gaps
        for domain in gaps:
            text = f"nobody can prove {domain}: there is no bundle (--trust-bundle)"
            if not domain:
                text = "the allowlist is empty: this door admits nobody"
            _log.warning("door is closed", extra={"door": self.name, "detail": text})

    async def _judge_all(self) -> None:
        """Judge who is in, a few at a time: under a new bundle each takes 0.3 ms.

        Calls need not wait for it, since each is judged by itself.
        """
        for number, carried in enumerate(self._guests, 1):
            error = carried.judge(self._source.current().bundles, self._allow)
            if error is not None:
                self._guests.evict(carried, error)
            if number % _FEW == 0:
                await asyncio.sleep(0)  # noqa: TID251 -- a turn of the loop, no time

    def _admit(self, carried: Carried, proven: Proven) -> None:
        # A generation may have come since its handshake began
        error = carried.judge(self._source.current().bundles, self._allow)
        if error is not None:
            raise error
        if proven.own is not self._own[0]:
            carried.leave()
        peer, own = proven.peer, proven.own
        assert own is not None  # noqa: S101
        _log.info(
            "peer admitted",
            extra={
                "door": self.name,
                "peer_id": str(peer.id) if peer else None,
                "peer_leaf_sha256": peer.leaf_sha256 if peer else None,
                "own_id": str(own.identity),
                "own_leaf_sha256": own.leaf_sha256,
                "generation": own.generation,
            },
        )


def _origin(connection: socket.socket) -> str:
    """Return from where *connection* comes; all Unix sockets are of one place."""
    with suppress(OSError):  # it has gone
        peer = connection.getpeername()
        return str(peer[0]) if isinstance(peer, tuple) else ""
    return ""


async def _client_hello(connection: socket.socket) -> None:
    """Wait for the first byte without taking it; it must begin a TLS handshake."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    first = connection.recv(1, socket.MSG_PEEK)
    if not first:
        raise PeerRefusedError("hung_up", "the peer left without a word")
    if first != _HANDSHAKE:
        raise PeerRefusedError("not_tls", "the peer does not speak TLS")


def _text(error: OSError) -> str:
    """Return what is known of a failed handshake, as a sentence."""
    if isinstance(error, TimeoutError):
        return "the peer did not prove itself in time"
    return f"the handshake failed: {error}"
