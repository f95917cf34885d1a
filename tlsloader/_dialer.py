"""The TLS end behind a gRPC channel: dial, prove the server, carry bytes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from clock import SYSTEM, Clock
from tlsloader._address import Address, resolve
from tlsloader._carried import FOR_A_WHILE, Carried
from tlsloader._context import shared_client_context
from tlsloader._dial import Dial
from tlsloader._errors import DialFailedError, PeerRefusedError
from tlsloader._inlet import Inlet
from tlsloader._matchers import Allowlist
from tlsloader._refuser import Refuser
from tlsloader._relay import Relay
from tlsloader._tally import Tally
from tlsloader._verify import recheck

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsloader._carried import Stay
    from tlsloader._context import TLSVersion
    from tlsloader._dial import Resolve
    from tlsloader._end import End
    from tlsloader._material import Material
    from tlsloader._source import Source
    from tlsloader._spiffe import SpiffeID
    from tlsloader._verify import Peer

__all__ = ["Dialer"]

_log = logging.getLogger(__name__)

_VERDICT: Final = 0.075
"""Seconds for which a failed dial answers for the next one."""


class Dialer:
    """The way from a gRPC channel to the one server that is *expected* at *address*.

    The channel's target is a private Unix socket, which `start` returns. Behind it
    each connection of the channel becomes a TLS connection on which the server has
    proven its SPIFFE ID, and shown that it accepts ours: only then do calls flow.
    A dial that fails answers the channel's calls with UNAVAILABLE and the reason,
    and is tried again for the next call, but not within 75 ms. All addresses of a
    name are tried; *connect_timeout* bounds them together, in seconds.

    The channel may outlive any number of rotations of either side. A server whose
    root is withdrawn is hung up on: the calls that run fail with UNAVAILABLE and
    the reason.
    """

    def __init__(  # noqa: PLR0913
        self,
        source: Source,
        *,
        expected: SpiffeID,
        address: str,
        clock: Clock = SYSTEM,
        minimum_tls: TLSVersion = "1.3",
        connect_timeout: float = 5.0,
        stay: Stay = FOR_A_WHILE,
        tally: Tally | None = None,
        resolve: Resolve = resolve,
        on_connected: Callable[[Peer], None] | None = None,
    ) -> None:
        self._source = source
        self._expected = expected
        self._allow = Allowlist.parse(str(expected))
        self._address = Address.parse(address)
        self._minimum_tls = minimum_tls
        self._clock = clock
        self._timeout = connect_timeout
        self._stay = stay
        self._resolve = resolve
        self._on_connected = on_connected
        self.tally = tally or Tally()
        self._own = source.current()
        self._verdict: tuple[float, DialFailedError] | None = None
        self._inlet = Inlet(self._serve, clock)
        self._carried: set[Carried] = set()
        self._leaving = False
        self._unsubscribe: Callable[[], None] = _nothing

    @property
    def connections(self) -> int:
        """How many proven connections are open."""
        return len(self._carried)

    async def start(self) -> str:
        """Return the target for the channel; nothing is dialled before it is used."""
        self._unsubscribe = self._source.subscribe(self._renew)
        self._own = self._source.current()
        return await self._inlet.start()

    async def drain(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Begin no new call and wait, at most *timeout* seconds, for those begun."""
        self._leaving = True
        for carried in self._carried:
            carried.leave()
        await self._inlet.wait(timeout)

    async def aclose(self) -> None:
        """End every connection now and remove the private socket."""
        self._unsubscribe()
        await self._inlet.aclose()

    async def _serve(self, local: End) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        # When the channel hangs up, nobody waits for this dial any more
        local.watch(task.cancel)
        try:
            remote, peer, own = await self._connect()
        except DialFailedError as error:
            await Refuser(local, str(error)).run()
        else:
            await self._carry(Relay(server=remote, client=local), peer, own)

    async def _connect(self) -> tuple[End, Peer, Material]:
        if self._verdict is not None:
            until, error = self._verdict
            if self._clock.monotonic() < until:
                # The same error again must not grow a traceback each time
                raise error.with_traceback(None)
        try:
            return await self._dial()
        except DialFailedError as error:
            self._verdict = self._clock.monotonic() + _VERDICT, error
            self.tally.refusals[error.reason] += 1
            _log.warning(
                "dial failed",
                extra={
                    **self._fields(error),
                    "presented": str(error.presented) if error.presented else None,
                },
            )
            raise

    async def _dial(self) -> tuple[End, Peer, Material]:
        own = self._own
        dial = Dial(
            self._allow,
            self._address,
            own,
            shared_client_context(own, self._allow.trust_domains, self._minimum_tls),
            timeout=self._timeout,
            clock=self._clock,
            resolve=self._resolve,
        )
        if self._leaving:
            raise dial.failed("closing", "this way is being closed")
        end, peer = await dial.run()
        if self._own is not own:  # a generation has come meanwhile
            try:
                peer = recheck(
                    peer,
                    bundles=self._own.bundles,
                    allow=self._allow,
                    now=self._clock.now(),
                )
            except PeerRefusedError as error:
                end.transport.abort()
                raise dial.refused(error) from error
        return end, peer, own

    async def _carry(self, relay: Relay, peer: Peer, own: Material) -> None:
        carried = Carried(
            relay,
            peer,
            clock=self._clock,
            tally=self.tally,
            stay=self._stay,
            stays=self._stays,
        )
        self._carried.add(carried)
        self._verdict = None
        try:
            self._tell(peer, own)
            if self._leaving or self._own is not own:
                carried.leave()
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

    def _renew(self, material: Material) -> None:
        """Take the new generation for new connections and let the old ones drain."""
        self._own = material
        self._verdict = None
        for carried in self._carried:
            error = carried.judge(material.bundles, self._allow)
            if error is None:
                carried.leave()
            else:
                self._evict(carried, error)

    def _stays(self, carried: Carried) -> None:
        """Decide about a connection that our channel was asked to leave."""
        if carried.too_old:
            text = f"{self._expected} has been connected for longer than streams may be"
            self._evict(carried, PeerRefusedError("too_old", text))

    def _evict(self, carried: Carried, error: PeerRefusedError) -> None:
        """Hang up on a server that may not stay; its calls read why."""
        if carried.evicted is None:
            carried.evicted = error
            self.tally.evictions[error.reason] += 1
            _log.warning("server evicted", extra=self._fields(error))
            carried.relay.end(f"hung up on {self._expected}: {error}")

    def _fields(self, error: DialFailedError | PeerRefusedError) -> dict[str, object]:
        return {
            "reason": error.reason,
            "detail": str(error),
            "expected": str(self._expected),
            "address": str(self._address),
        }


def _nothing() -> None:
    """Stand for a subscription that there is not."""
