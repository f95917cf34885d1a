"""Sockets of this process alone: private folders, and who is at the other end."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Credentials", "PrivateFolder", "credentials"]

_ROOM: Final = 80
"""Longest folder, so that every socket path in it stays under gRPC's 107 bytes."""

_CREDENTIALS: Final = struct.Struct("iII")


class Credentials(NamedTuple):
    """Who connected, as the kernel saw it at that moment."""

    pid: int
    uid: int
    gid: int


def credentials(connection: socket.socket) -> Credentials:
    """Return the credentials of the process behind a Unix socket.

    Source: unix(7), SO_PEERCRED.
    """
    raw = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    return Credentials(*_CREDENTIALS.unpack(raw))


class PrivateFolder:
    """A folder of mode 0700 with a short path, gone after `remove`."""

    def __init__(self) -> None:
        where = tempfile.gettempdir()
        if len(os.fsencode(where)) > _ROOM - 16:
            where = "/tmp"  # noqa: S108  # mkdtemp makes it private
        self.path = Path(tempfile.mkdtemp(prefix="cm-", dir=where))

    def remove(self) -> None:
        """Remove the folder and what is in it; again does no harm."""
        shutil.rmtree(self.path, ignore_errors=True)
