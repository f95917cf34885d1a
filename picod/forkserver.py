"""The parent of PicoDs: imports once what each of them needs, then forks.

    python -I -m picod.forkserver

It is started afresh, with a SOCK_SEQPACKET socket as descriptor 3. Each message there
is an order for one PicoD: its command line and environment as JSON, and beside it the
descriptors that it is to find as 1, 2 and so on. No order is answered here. The PicoD
itself says on its standard output, a socket, which process it is, and hands over a
pidfd of itself; if that socket closes before this word, nothing was made.

The parent never sees a key and never uses gRPC, whose threads no fork would survive.
It ends when its socket is closed or the code that it has imported has changed. PicoDs
live on.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from picod.__main__ import begin
from picod._bundle import bundle
from picod._bwrap import find_bwrap
from picod._errors import IsolationError
from picod._mark import own_mark
from picod._rehearsal import rehearse
from serving import EX_SOFTWARE, print_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    Be = Callable[[Sequence[str], Mapping[str, str]], int]

__all__ = ["main"]

_ORDERS: Final = 3
_LARGEST: Final = 1 << 16
_MOST_DESCRIPTORS: Final = 8
_TASKS, _DESCRIPTORS = Path("/proc/self/task"), Path("/proc/self/fd")


@dataclass(frozen=True, slots=True)
class Order:
    """What one PicoD is to be."""

    argv: tuple[str, ...]
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
        return cls(tuple(told["argv"]), told["environment"], tuple(descriptors))

    def become(self) -> None:
        """Make this forked process what was ordered, apart from the rest of us."""
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, *self.descriptors)):
            os.dup2(descriptor, number)
        for descriptor in _descriptors():
            if descriptor > len(self.descriptors):
                os.close(descriptor)
        os.environ.clear()  # noqa: TID251  # what was told takes its place
        os.environ.update(self.environment)  # noqa: TID251
        _introduce()


def serve(orders: socket.socket, *, look: float) -> Order | None:
    """Fork once for each order; return it in the child, and ``None`` at the end.

    The code on the disk is looked at after *look* seconds without an order.

    Raises:
        RuntimeError: this process is not fit to be forked any more.
    """
    orders.settimeout(look)
    own, code = _descriptors(), _code()
    while _code() == code:
        with suppress(TimeoutError):
            while order := Order.receive(orders):
                _require_fit({*own, *order.descriptors})
                if os.fork() == 0:
                    orders.detach()  # the number is another's by the time it is freed
                    return order
                for descriptor in order.descriptors:
                    os.close(descriptor)
            return None
    return None


def _introduce() -> None:
    """Say on the standard output which process we are; nobody there ends us."""
    line = socket.socket(fileno=1)
    us = os.pidfd_open(os.getpid())
    try:
        socket.send_fds(line, [json.dumps(own_mark()).encode() + b"\n"], [us])
    finally:
        os.close(us)
        line.detach()


def _require_fit(expected: Collection[int]) -> None:
    """See that there are no threads and nothing open that we do not know.

    gRPC that is in use has both.
    """
    threads, descriptors = len([*_TASKS.iterdir()]), _descriptors()
    if threads != 1 or descriptors != set(expected):
        raise RuntimeError(
            f"{threads} threads, and open descriptors {sorted(descriptors)} "
            f"instead of {sorted(expected)}"
        )


def _descriptors() -> set[int]:
    found = set()
    for link in _DESCRIPTORS.iterdir():
        with suppress(OSError):  # that of the listing itself
            os.fstat(int(link.name))
            found.add(int(link.name))
    return found


def _code() -> dict[str, tuple[int, int, int]]:
    """Return what tells the files of the imported modules from changed ones."""
    known = {}
    for module in tuple(sys.modules.values()):
        if path := getattr(module, "__file__", None):
            with suppress(OSError):
                found = os.stat(path)  # noqa: PTH116  # some hundred, again and again
                known[path] = found.st_mtime_ns, found.st_size, found.st_ino
    return known


def _prepare() -> None:
    """Do what every PicoD would have to do first."""
    with suppress(ImportError):
        importlib.import_module("uvloop")
    with suppress(IsolationError):  # whoever needs it will say so
        find_bwrap()
    bundle()
    rehearse()
    gc.collect()
    gc.freeze()


def main(be: Be = begin, *, look: float = 5.0) -> int:
    """Serve; return what this process is to exit with, parent or child.

    A child is what *be* makes of its command line and environment.
    """
    os.chdir("/")
    with socket.socket(fileno=_ORDERS) as orders:
        _prepare()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries our children
        orders.send(b"ready")
        try:
            order = serve(orders, look=look)
        except RuntimeError as error:
            text = f"this fork server is not fit to be forked: {error}"
            print_faults([(text, "report this")], sys.stderr)
            return EX_SOFTWARE
    return 0 if order is None else _live(order, be)


def _live(order: Order, be: Be) -> NoReturn:
    """Be what was ordered, to its end."""
    status: int | str | None
    try:
        order.become()
        status = be(order.argv, order.environment)
    except BrokenPipeError:  # nobody wants it any more
        status = None
    except SystemExit as error:
        status = error.code
    if status:
        sys.stdout.write(json.dumps({"status": status}) + "\n")
    sys.stdout.flush()
    logging.shutdown()
    # The end of an interpreter touches all that we share with our parent.
    os._exit(int(status or 0))


if __name__ == "__main__":
    sys.exit(main())
