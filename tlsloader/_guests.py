"""Proven connections, carried to the gRPC server behind a door."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from tlsloader._address import queued_up
from tlsloader._carried import Carried, Stay
from tlsloader._end import End
from tlsloader._errors import PeerRefusedError
from tlsloader._private import PrivateFolder, kept
from tlsloader._relay import LAST_WORDS, Relay
from tlsloader._tasks import OwnTasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clock import Clock
    from tlsloader._material import Material
    from tlsloader._tally import Tally
    from tlsloader._verify import Peer

__all__ = ["Calls", "Guests", "Proven", "fields_of"]

_log = logging.getLogger(__name__)

_ABSTRACT: Final = "unix-abstract:"


@dataclass(frozen=True, slots=True)
class Proven:
    """A client's connection, whose it is, and what we showed it ourselves."""

    end: End
    peer: Peer | None = None
    own: Material | None = None


class Calls(Protocol):
    """The calls that run behind a door, by what handlers see as ``context.peer()``."""

    def running(self, connection: str) -> int:
        """Return how many came on *connection*."""

    async def end(self, connection: str, error: PeerRefusedError) -> None:
        """End them because of *error*; the peer reads that they did, but not why."""


class Guests:
    """Who is in, each known to the gRPC server by a name that nobody can guess.

    The server listens on a private Unix socket, `backend`. A guest's relay connects
    to it from a socket with a random abstract name, which handlers see as
    ``context.peer()``: `find` tells whose it is.
    """

    def __init__(self, door: str, clock: Clock, tally: Tally, stay: Stay) -> None:
        self._door = door
        self._clock = clock
        self._tally = tally
        self._stay = stay
        self._folder = PrivateFolder()
        self._path = str(self._folder.path / "grpc")
        self._by_name: dict[str, Carried] = {}
        self._endings = OwnTasks()
        self._leaving = False
        self.calls: Calls | None = None
        """What runs for them, to be ended with a status where they may not stay."""

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Carried]:
        return iter(tuple(self._by_name.values()))

    @property
    def backend(self) -> str:
        """Where the gRPC server must listen (insecure) before anybody comes."""
        return f"unix:{self._path}"

    def find(self, context_peer: str) -> Carried:
        """Return the connection that a handler sees as *context_peer*.

        Raises:
            PeerRefusedError: nobody proved it, or who did may not stay.
        """
        carried = self._by_name.get(context_peer)
        if carried is None:
            raise PeerRefusedError(
                "unknown_connection", f"nobody proved the connection {context_peer!r}"
            )
        if carried.evicted is None and carried.overstayed:
            text = "it goes on calling where it was asked to come anew (GOAWAY)"
            self.evict(carried, PeerRefusedError("goaway_ignored", text))
        if carried.evicted is not None:
            raise carried.evicted.with_traceback(None)
        return carried

    async def carry(
        self, proven: Proven, admit: Callable[[Carried, Proven], None]
    ) -> None:
        """Carry a guest's bytes until it leaves; *admit* sees it in, or raises."""
        try:
            name, server = await self._connect()
        except BaseException:
            proven.end.transport.abort()
            raise
        carried = self._by_name[name] = Carried(
            Relay(server=server, client=proven.end),
            proven.peer,
            name=name,
            clock=self._clock,
            tally=self._tally,
            stay=self._stay,
            stays=self._stays,
        )
        try:
            admit(carried, proven)
            if self._leaving:
                carried.leave()
            await carried.run()
        finally:
            del self._by_name[name]
            carried.relay.abort()

    def leave(self) -> None:
        """Ask all to go when their calls have ended, and who still comes, too."""
        self._leaving = True
        for carried in self:
            carried.leave()

    def evict(self, carried: Carried, error: PeerRefusedError) -> None:
        """End the connection of a peer that was proven, and may not stay."""
        if carried.evicted is None:
            carried.evicted = error
            self._tally.evictions[error.reason] += 1
            _log.warning("peer evicted", extra=fields_of(self._door, error))
            self._endings.start(self._see_off(carried, error))

    async def aclose(self) -> None:
        """Stop seeing off those that may not stay, and remove the private folder."""
        await self._endings.end()
        self._folder.remove()

    async def _see_off(self, carried: Carried, error: PeerRefusedError) -> None:
        """Let the calls of *carried* fail with a status, and then itself go."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    carried.relay.goaway()
                    if self.calls is not None:
                        await self.calls.end(carried.name, error)
                        await carried.relay.wait_closed()
        finally:
            carried.relay.abort()

    def _stays(self, carried: Carried) -> None:
        """Decide about a guest that was asked to go, and is still there."""
        if carried.too_old:
            text = f"it has stayed for {self._stay.busy:g} s after it was asked to go"
            self.evict(carried, PeerRefusedError("too_old", text))
        elif carried.overstayed and self.calls and not self.calls.running(carried.name):
            carried.relay.close()

    async def _connect(self) -> tuple[str, End]:
        name = secrets.token_hex(16)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)  # noqa: FBT003
            connection.bind(f"\0{name}")
            await queued_up(kept(connection), self._path, self._clock)
            end = End()
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: end, sock=connection)
        except BaseException:
            connection.close()
            raise
        return _ABSTRACT + name, end


def fields_of(door: str, error: PeerRefusedError) -> dict[str, object]:
    """Return what our log tells of *error*."""
    return {
        "door": door,
        "reason": error.reason,
        "detail": str(error),
        "peer_id": str(error.peer_id) if error.peer_id else None,
    }
