"""The end in front of a gRPC server for processes of our own user."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from tlsloader._door import Door
from tlsloader._end import End
from tlsloader._errors import PeerRefusedError
from tlsloader._guests import Proven
from tlsloader._private import credentials

if TYPE_CHECKING:
    import socket

__all__ = ["UnixAcceptor"]


class UnixAcceptor(Door):
    """The end in front of a gRPC server for processes of our own user only.

    No TLS: the kernel says whose process is at the other end.
    """

    def peer(self, context_peer: str) -> None:
        """Return nothing: the peer is our own user, and has no SPIFFE ID.

        Raises:
            PeerRefusedError: nobody proved this connection.

        """
        self._guests.find(context_peer)

    async def start(self, listen: str) -> str:
        """Listen at *listen*, which must be ``unix:/path``.

        Raises:
            ListenError: the path is in use, or not ours to take.
            ValueError: *listen* is something else.

        """
        if not listen.startswith("unix:"):
            raise ValueError(f"{listen!r} is not unix:/path: this door knows no TLS")
        return await super().start(listen)

    async def _prove(self, connection: socket.socket) -> Proven:
        end = End()
        _check_user(credentials(connection).uid)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: end, connection)
        return Proven(end)


def _check_user(uid: int) -> None:
    if uid != os.getuid():
        text = f"the peer is user {uid}, not our own user {os.getuid()}"
        raise PeerRefusedError("other_user", text)
