"""Sockets of this process alone: private folders, and who is at the other end.

A forked child inherits every descriptor, and could speak on its parent's connections,
in its parent's name. So in each child all that was `kept` is replaced by a dead socket
at once, and gRPC's own ends of connections in private folders, too; what the parent
has in its hands stays as it is.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from weakref import WeakSet

__all__ = ["Credentials", "PrivateFolder", "credentials", "kept"]

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


def kept(connection: socket.socket) -> socket.socket:
    """Return *connection*, which no child of this process shall have."""
    _KEPT.add(connection)
    return connection


class PrivateFolder:
    """A folder of mode 0700 with a short path, gone after `remove`."""

    def __init__(self) -> None:
        where = tempfile.gettempdir()
        if len(os.fsencode(where)) > _ROOM - 16:
            where = "/tmp"  # noqa: S108  # mkdtemp makes it private
        self.path = Path(tempfile.mkdtemp(prefix="cm-", dir=where))
        self._owner = os.getpid()
        _FOLDERS.add(self)

    def remove(self) -> None:
        """Remove the folder and what is in it; again does no harm, nor in a child."""
        if os.getpid() == self._owner:
            shutil.rmtree(self.path, ignore_errors=True)


_KEPT: Final[WeakSet[socket.socket]] = WeakSet()
_FOLDERS: Final[WeakSet[PrivateFolder]] = WeakSet()


def _sever() -> None:
    """Leave a child no connection of its parent's, and no poll that it shares.

    With the latter, an event loop that still runs in the child would take wake-ups
    from the parent, and what it closes out of the parent's sight.
    """
    if not (_KEPT or _FOLDERS):
        return
    ours = {each.fileno() for each in _KEPT}
    dead, other = socket.socketpair()
    other.close()
    with dead, select.epoll() as idle:
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            descriptor = int(name)
            with suppress(OSError):
                kind = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
                if kind == "anon_inode:[eventpoll]":
                    os.dup2(idle.fileno(), descriptor, inheritable=False)
                elif descriptor in ours or _is_private(descriptor):
                    os.dup2(dead.fileno(), descriptor, inheritable=False)


def _is_private(descriptor: int) -> bool:
    """Say whether it is a socket with either end in one of our folders."""
    connection = socket.socket(fileno=descriptor)
    try:
        for end in (connection.getsockname, connection.getpeername):
            with suppress(OSError):
                if Path(str(end())).parent in {each.path for each in _FOLDERS}:
                    return True
        return False
    finally:
        connection.detach()


os.register_at_fork(after_in_child=_sever)
