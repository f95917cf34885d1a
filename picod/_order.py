"""An order to be a PicoD, and how a forked process becomes what was ordered."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from picod._mark import own_mark

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Order", "descriptors"]

_LARGEST: Final = 1 << 16
_MOST_DESCRIPTORS: Final = 8
_DESCRIPTORS: Final = Path("/proc/self/fd")


@dataclass(frozen=True, slots=True)
class Order:
    """What one PicoD is to be, as one message says it in JSON.

    *own* are flags that it shares with no other, by name. The *descriptors* that come
    with the message it is to find as 1, 2 and so on.
    """

    flags: tuple[str, ...]
    own: Mapping[str, str]
    environment: Mapping[str, str]
    descriptors: tuple[int, ...]

    @classmethod
    def receive(cls, orders: socket.socket) -> Self | None:
        """Return the next order; ``None``: there will be none.

        Raises:
            TimeoutError: there is none yet.
        """
        data, descriptors, *_ = socket.recv_fds(
            orders, _LARGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            return None
        told = json.loads(data)
        flags, own, environment = told["flags"], told["own"], told["environment"]
        return cls(tuple(flags), own, environment, tuple(descriptors))

    @property
    def argv(self) -> list[str]:
        """The whole command line."""
        return [*self.flags, *(word for pair in self.own.items() for word in pair)]

    @property
    def kind(self) -> tuple[object, ...]:
        """What this has in common with others that are read alike."""
        return self.flags, tuple(self.own)

    def become(self) -> None:
        """Make this forked process what was ordered, apart from the rest of us."""
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, *self.descriptors)):
            os.dup2(descriptor, number)
        os.closerange(len(self.descriptors) + 1, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()  # noqa: TID251  # what was told takes its place
        os.environ.update(self.environment)  # noqa: TID251
        _introduce()


def _introduce() -> None:
    """Say on the standard output which process we are; nobody there ends us."""
    line = socket.socket(fileno=1)
    us = os.pidfd_open(os.getpid())
    try:
        socket.send_fds(line, [json.dumps(own_mark()).encode() + b"\n"], [us])
    finally:
        os.close(us)
        line.detach()


def descriptors() -> set[int]:
    """Return what is open in this process."""
    found = set()
    for link in _DESCRIPTORS.iterdir():
        with suppress(OSError):  # that of the listing itself
            os.fstat(int(link.name))
            found.add(int(link.name))
    return found
