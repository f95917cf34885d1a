"""What both acceptors share: take connections in, prove them, carry them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from clock import SYSTEM, Clock
from tlsloader._address import Address, Listener
from tlsloader._carried import Carried
from tlsloader._errors import PeerRefusedError
from tlsloader._private import PrivateFolder
from tlsloader._relay import End, Relay
from tlsloader._tasks import OwnTasks

if TYPE_CHECKING:
    from tlsloader._material import Material
    from tlsloader._verify import Peer

__all__ = ["Door", "Proven"]

_log = logging.getLogger(__name__)

_RETRY: Final = 0.1
_ABSTRACT: Final = "unix-abstract:"


@dataclass(frozen=True, slots=True)
class Proven:
    """A client's connection, whose it is, and what we showed it ourselves."""

    end: End
    peer: Peer | None = None
    own: Material | None = None


class Door:
    """A listening socket in front of a gRPC server on a private Unix socket.

    Each connection is one task: prove the peer, connect to the server from a socket
    with a random abstract name, carry bytes. The server's handlers see that name as
    ``context.peer()``, and `carried` tells whose it is.
    """

    def __init__(
        self, *, name: str, clock: Clock = SYSTEM, max_connections: int = 4096
    ) -> None:
        self.name = name
        self.refusals: Counter[str] = Counter()
        """How many connections were refused, by reason."""
        self._clock = clock
        self._max_connections = max_connections
        self._folder = PrivateFolder()
        self._path = str(self._folder.path / "grpc")
        self._listener: Listener | None = None
        self._accepting = OwnTasks()
        self._tasks = OwnTasks()
        self._unproven: dict[asyncio.Task[Any], None] = {}
        self._carried: dict[str, Carried] = {}
        self._leaving = False

    @property
    def backend(self) -> str:
        """Where the gRPC server must listen (insecure) before `start`."""
        return f"unix:{self._path}"

    @property
    def connections(self) -> int:
        """How many proven connections are open."""
        return len(self._carried)

    async def start(self, listen: str) -> str:
        """Listen at *listen*, ``host:port`` (0: any free one) or ``unix:/path``.

        Returns the address with its real port.

        Raises:
            ListenError: the address is in use, or not ours to take.
            ValueError: *listen* is not an address.

        """
        self._listener = await Listener.open(Address.parse(listen))
        self._accepting.start(self._accept(self._listener.sock))
        return str(self._listener.address)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109
        """Take nobody in any more and wait until all have left.

        Clients are asked to (GOAWAY) and leave when their last call has ended and,
        with gRPC, is no longer referred to; returns after *timeout* seconds anyway.
        """
        self._leaving = True
        await self._stop_listening()
        for carried in self._carried.values():
            carried.relay.goaway()
        await self._tasks.wait(timeout)

    async def aclose(self) -> None:
        """Stop listening, end every connection now and remove the private folder."""
        await self._stop_listening()
        await self._tasks.end()
        self._folder.remove()

    async def _prove(self, connection: socket.socket) -> Proven:
        """Prove who is at the other end of *connection*.

        Raises:
            PeerRefusedError: it is nobody that this door lets in.

        """
        raise NotImplementedError

    def _check_again(self, carried: Carried, proven: Proven) -> None:
        """Judge a peer once more, just before its connection is carried."""

    def _find(self, context_peer: str) -> Carried:
        """Return the connection that a handler sees as *context_peer*."""
        carried = self._carried.get(context_peer.removeprefix(_ABSTRACT))
        if carried is None or not context_peer.startswith(_ABSTRACT):
            raise PeerRefusedError(
                "unknown_connection", f"nobody proved the connection {context_peer!r}"
            )
        return carried

    def _refuse(self, error: PeerRefusedError) -> None:
        """Count and log a refusal; the peer itself learns nothing."""
        self.refusals[error.reason] += 1
        _log.warning(
            "peer refused",
            extra={
                "door": self.name,
                "reason": error.reason,
                "detail": str(error),
                "peer_id": str(error.peer_id) if error.peer_id else None,
            },
        )

    def _admitted(self, proven: Proven) -> None:
        """Log who came in."""

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
            except OSError as error:
                # Out of descriptors, for example: those who wait stay in the queue
                _log.warning("cannot accept", extra={"detail": str(error)})
                await self._clock.sleep(_RETRY)
            else:
                self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
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
            proven = await self._prove(connection)
        except PeerRefusedError as error:
            self._refuse(error)
            return
        finally:
            if (task := asyncio.current_task()) is not None:
                self._unproven.pop(task, None)
        try:
            name, server = await self._connect()
        except BaseException:
            proven.end.transport.abort()
            raise
        await self._carry(name, proven, server)

    async def _carry(self, name: str, proven: Proven, server: End) -> None:
        relay = Relay(server=server, client=proven.end)
        carried = self._carried[name] = Carried(relay, proven.peer, self._clock)
        try:
            self._check_again(carried, proven)
            self._admitted(proven)
            if self._leaving:
                relay.goaway()
            await carried.run()
        except PeerRefusedError as error:
            self._refuse(error)
        finally:
            del self._carried[name]
            relay.abort()

    async def _connect(self) -> tuple[str, End]:
        """Connect to the gRPC server under a name that nobody can guess."""
        name = secrets.token_hex(16)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)  # noqa: FBT003
            connection.bind(f"\0{name}")
            await self._queue_up(connection)
            end = End()
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: end, sock=connection)
        except BaseException:
            connection.close()
            raise
        return name, end

    async def _queue_up(self, connection: socket.socket) -> None:
        # A full backlog is EAGAIN here, which asyncio takes for "in progress"
        while True:
            with suppress(BlockingIOError):
                return connection.connect(self._path)
            await self._clock.sleep(_RETRY)
