"""Addresses as users write them: ``host:port`` and ``unix:/path``; their sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final, Self

from tlsloader._errors import ListenError
from tlsloader._private import kept

if TYPE_CHECKING:
    from clock import Clock

__all__ = ["LONGEST_PATH", "Address", "Listener", "connected", "queued_up", "resolve"]

LONGEST_PATH: Final = 107
"""Bytes in the path of a Unix socket. Source: unix(7), sun_path."""

_BACKLOG: Final = 4096
_RETRY: Final = 0.1
_PORTS: Final = range(65536)
_REASONS: Final = {
    errno.EADDRINUSE: "address_in_use",
    errno.EACCES: "not_permitted",
    errno.EPERM: "not_permitted",
    errno.ENOENT: "no_such_folder",
    errno.EADDRNOTAVAIL: "not_our_address",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host:port``, ``[v6]:port`` or ``unix:/path``.

        Raises:
            ValueError: *text* is none of them.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError(f"{text!r} must give an absolute path")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise ValueError(f"{text!r} is neither host:port nor unix:/path")
        if int(port) not in _PORTS:
            raise ValueError(f"{text!r} has no port from 0 to 65535")
        return cls(host=host.removeprefix("[").removesuffix("]"), port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


async def resolve(address: Address) -> list[Address]:
    """Return where *address* may be, both families by turns, as the system prefers.

    Raises:
        OSError: the name leads nowhere.

    Source: RFC 8305, section 4.
    """
    if address.path or _is_number(address.host):
        return [address]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    families: dict[int, list[Address]] = {}
    for family, _, _, _, where in found:
        host, port = str(where[0]), int(where[1])
        families.setdefault(family, []).append(Address(host=host, port=port))
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [each for each in turns if each is not None]


def _is_number(host: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(host))
    return False


async def connected(place: Address, clock: Clock) -> socket.socket:
    """Return a socket that is connected to *place*, whose host is a number.

    Raises:
        OSError: nobody can be reached there.
    """
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    sock = socket.socket(socket.AF_UNIX if place.path else family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003
        if place.path:
            await queued_up(sock, place.path, clock)
        else:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (place.host, place.port))
    except BaseException:
        sock.close()
        raise
    return kept(sock)


async def queued_up(sock: socket.socket, path: str, clock: Clock) -> None:
    """Connect *sock* to *path*, waiting where its queue is full."""
    # That is EAGAIN here, which asyncio takes for "in progress"
    while True:
        with suppress(BlockingIOError):
            return sock.connect(path)
        await clock.sleep(_RETRY)


class Listener:
    """A listening socket; a Unix one leaves no file behind."""

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self.sock = kept(sock)
        self.address = address
        self._owner = os.getpid()
        self._inode = _inode(address.path) if address.path else None

    @classmethod
    async def open(cls, address: Address, *, shared: bool = False) -> Self:
        """Listen at *address*; port 0 takes any free one.

        A *shared* port may be listened at by other processes of our user, too, if
        they share it as well; the kernel spreads connections over all of them. A
        socket file that nobody listens at any more is replaced.

        Raises:
            ListenError: the address is in use, or not ours to take.
        """
        try:
            if address.path:
                return cls(_bind_path(address.path), address)
            return cls(*await _bind_port(address, shared=shared))
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, "cannot_listen")
            text = f"cannot listen on {address}: {error.strerror or error}"
            raise ListenError(str(address), reason, text) from error

    def close(self) -> None:
        """Stop listening and remove our own socket file."""
        self.sock.close()
        path = self.address.path if os.getpid() == self._owner else ""
        if path and self._inode is not None and _inode(path) == self._inode:
            os.unlink(path)  # noqa: PTH108


def _listening(family: int, where: object, *, shared: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)  # type: ignore[arg-type]
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


async def _bind_port(
    address: Address, *, shared: bool
) -> tuple[socket.socket, Address]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host or None,
        address.port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    family, _, _, _, where = found[0]
    sock = _listening(family, where, shared=shared)
    host, port = sock.getsockname()[:2]
    return sock, Address(host=host, port=port)


def _bind_path(path: str) -> socket.socket:
    try:
        return _listening(socket.AF_UNIX, path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
    os.unlink(path)  # noqa: PTH108
    return _listening(socket.AF_UNIX, path)


def _is_stale(path: str) -> bool:
    if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
