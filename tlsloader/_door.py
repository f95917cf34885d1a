"""What both acceptors share: take connections in and prove them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from clock import SYSTEM, Clock
from tlsloader._address import Address, Listener
from tlsloader._carried import FOR_A_WHILE
from tlsloader._errors import PeerRefusedError
from tlsloader._guests import Guests, fields_of
from tlsloader._private import kept
from tlsloader._tally import Tally
from tlsloader._tasks import OwnTasks

if TYPE_CHECKING:
    import socket
    from collections import Counter

    from tlsloader._carried import Carried, Stay
    from tlsloader._guests import Calls, Proven

__all__ = ["Door"]

_log = logging.getLogger(__name__)

_RETRY: Final = 0.1
_MANY: Final = 1000


class Door:
    """A listening socket in front of a gRPC server on a private Unix socket.

    Each connection is one task: prove the peer, then carry its bytes as `Guests` do.

    Args:
        name: what to call the door in logs and figures.
        clock: what tells the time.
        max_connections: how many there may be; proven ones are never displaced.
        stay: how long connections may stay once a newer one should take their place.
    """

    def __init__(
        self,
        *,
        name: str,
        clock: Clock = SYSTEM,
        max_connections: int = 4096,
        stay: Stay = FOR_A_WHILE,
        shared_port: bool = False,
    ) -> None:
        self.name = name
        self.tally = Tally()
        self._clock = clock
        self._max_connections = max_connections
        self._shared_port = shared_port
        self._guests = Guests(name, clock, self.tally, stay)
        self._listener: Listener | None = None
        self._accepting = OwnTasks()
        self._tasks = OwnTasks()
        self._unproven: dict[asyncio.Task[Any], None] = {}

    @property
    def backend(self) -> str:
        """Where the gRPC server must listen (insecure) before `start`."""
        return self._guests.backend

    @property
    def connections(self) -> int:
        """How many proven connections are open."""
        return len(self._guests)

    @property
    def refusals(self) -> Counter[str]:
        """How many connections were never proven, by reason."""
        return self.tally.refusals

    def ends(self, calls: Calls) -> None:
        """Have *calls* end with a status when their peer may not stay."""
        self._guests.calls = calls

    async def start(self, listen: str) -> str:
        """Listen at *listen*, ``host:port`` (0: any free one) or ``unix:/path``.

        Returns the address with its real port.

        Raises:
            ListenError: the address is in use, or not ours to take.
            ValueError: *listen* is not an address.

        """
        self._listener = await Listener.open(
            Address.parse(listen), shared=self._shared_port
        )
        self._accepting.start(self._accept(self._listener.sock))
        return str(self._listener.address)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109
        """Take nobody in any more and wait until all have left.

        Clients are asked to (GOAWAY) and leave when their last call has ended and,
        with gRPC, is no longer referred to; returns after *timeout* seconds anyway.
        """
        await self._stop_listening()
        self._guests.leave()
        await self._tasks.wait(timeout)

    async def aclose(self) -> None:
        """Stop listening, end every connection now and remove the private folder."""
        await self._stop_listening()
        await self._tasks.end()
        await self._guests.aclose()

    async def _prove(self, connection: socket.socket) -> Proven:
        """Prove who is at the other end of *connection*.

        Raises:
            PeerRefusedError: it is nobody that this door lets in.

        """
        raise NotImplementedError

    def _admit(self, carried: Carried, proven: Proven) -> None:
        """See a peer in, just before its connection is carried.

        Raises:
            PeerRefusedError: it may not come in any more.

        """

    def _refuse(self, error: PeerRefusedError) -> None:
        """Count and log a refusal; the peer itself learns nothing."""
        self.refusals[error.reason] += 1
        _log.warning("peer refused", extra=fields_of(self.name, error))

    async def _stop_listening(self) -> None:
        await self._accepting.end()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
                self._welcome(connection)
                # Whoever else is there, too: in a storm the loop does not come by often
                for _ in range(_MANY):
                    self._welcome(listening.accept()[0])
            except BlockingIOError:
                continue
            except OSError as error:
                # Out of descriptors, for example: those who wait stay in the queue
                _log.warning("cannot accept", extra={"detail": str(error)})
                await self._clock.sleep(_RETRY)

    def _welcome(self, connection: socket.socket) -> None:
        kept(connection).setblocking(False)  # noqa: FBT003
        if len(self._tasks) >= self._max_connections and not self._displace():
            connection.close()
            text = f"there are {self._max_connections} connections already"
            self._refuse(PeerRefusedError("too_many_connections", text))
            return
        task = self._tasks.start(self._serve(connection), connection)
        self._unproven[task] = None
        task.add_done_callback(lambda task: self._unproven.pop(task, None))

    def _displace(self) -> bool:
        """Turn away who has tried to prove itself for longest."""
        if not self._unproven:
            return False
        oldest = next(iter(self._unproven))
        del self._unproven[oldest]
        oldest.cancel()
        self._refuse(PeerRefusedError("displaced", "it was too slow for a full door"))
        return True

    async def _serve(self, connection: socket.socket) -> None:
        try:
            try:
                proven = await self._prove(connection)
            finally:
                if (task := asyncio.current_task()) is not None:
                    self._unproven.pop(task, None)
            await self._guests.carry(proven, self._admit)
        except PeerRefusedError as error:
            self._refuse(error)
