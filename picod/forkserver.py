"""The parent of PicoDs: imports once what each of them needs, then forks.

    python -I -m picod.forkserver [--traces]

It is started afresh, with a SOCK_SEQPACKET socket as descriptor 3, from which it takes
one `Order` after the other. None is answered there. The PicoD itself says on its
standard output, a socket, which process it is, and hands over a pidfd of itself; if
that socket closes before this word, nothing was made.

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
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from picod.__main__ import begin, live
from picod._bundle import bundle
from picod._bwrap import find_bwrap
from picod._errors import IsolationError
from picod._groups import places
from picod._order import Order, descriptors
from picod._rehearsal import rehearse
from picod._settings import Settings
from picod._view import host
from picod.seccomp import load
from serving import (
    EX_SOFTWARE,
    SettingsError,
    load_tracing,
    print_faults,
    read,
    retold,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Be = Callable[[Order], int]
    _State = tuple[int, int, int] | None

__all__ = ["main"]

_ORDERS: Final = 3
_MOST_KINDS: Final = 256
_TASKS: Final = Path("/proc/self/task")


class Parent:
    """Forks once for each order; a child finds in ``read`` what was read already."""

    def __init__(self, orders: socket.socket, *, look: float) -> None:
        self._orders, self._look = orders, look
        self._own, self._code = descriptors(), _code()
        self._looked = time.monotonic()
        self.read: dict[object, Settings] = {}

    def serve(self) -> Order | None:
        """Return an order in the child that it is for, and ``None`` at the end.

        Raises:
            RuntimeError: this process is not fit to be forked any more.
        """
        self._orders.settimeout(self._look)
        while self._up_to_date():
            try:
                order = Order.receive(self._orders)
            except TimeoutError:
                continue
            if order is None:
                return None
            self._read(order)
            _require_fit({*self._own, *order.descriptors})
            if os.fork() == 0:
                self._orders.detach()  # the number will be another's
                return order
            for descriptor in order.descriptors:
                os.close(descriptor)
        return None

    def _up_to_date(self) -> bool:
        """Say whether the code on the disk is ours; looks only now and then."""
        if (now := time.monotonic()) < self._looked + self._look:
            return True
        self._looked = now
        return all(_state(path) == state for path, state in self._code.items())

    def _read(self, order: Order) -> None:
        """Read the flags of a kind once; what is wrong with them, the child says."""
        if order.kind not in self.read and len(self.read) < _MOST_KINDS:
            with suppress(SettingsError):
                settings = read(Settings, order.argv, {}, "picod")
                self.read[order.kind] = settings
                host(str(settings.python))

    def be_picod(self, order: Order) -> int:
        """Be what was ordered, and return the exit status."""
        if (settings := self.read.get(order.kind)) is None:
            return begin(order.argv, order.environment)
        return live(retold(settings, order.own))


def _require_fit(expected: Collection[int]) -> None:
    """See that there are no threads and nothing open that we do not know.

    gRPC that is in use has both.
    """
    threads, found = len([*_TASKS.iterdir()]), descriptors()
    if threads != 1 or found != set(expected):
        raise RuntimeError(
            f"{threads} threads, and open descriptors {sorted(found)} "
            f"instead of {sorted(expected)}"
        )


def _code() -> dict[str, _State]:
    """Return the files of the imported modules, as they are now."""
    files = (getattr(each, "__file__", None) for each in tuple(sys.modules.values()))
    return {path: _state(path) for path in files if path}


def _state(path: str) -> _State:
    """Return what tells a file from a changed one."""
    try:
        found = os.stat(path)  # noqa: PTH116  # some hundred, again and again
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _prepare(*, traces: bool) -> None:
    """Do what every PicoD would have to do first."""
    if traces:
        load_tracing()
    with suppress(ImportError):
        importlib.import_module("uvloop")
    with suppress(IsolationError):  # whoever needs it will say so
        find_bwrap()
        load()
    bundle()
    places()
    rehearse()
    gc.collect()
    gc.freeze()


def main(be: Be | None = None, *, look: float = 5.0, traces: bool = False) -> int:
    """Serve; return what this process is to exit with, parent or child.

    With *traces* PicoDs find loaded what they need to send them.

    A child is what *be* makes of its order: a PicoD. Every *look* seconds the code on
    the disk is compared with ours.
    """
    os.chdir("/")
    with socket.socket(fileno=_ORDERS) as orders:
        _prepare(traces=traces)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries our children
        parent = Parent(orders, look=look)
        orders.send(b"ready")
        try:
            order = parent.serve()
        except RuntimeError as error:
            text = f"this fork server is not fit to be forked: {error}"
            print_faults([(text, "report this")], sys.stderr)
            return EX_SOFTWARE
    return 0 if order is None else _live(order, be or parent.be_picod)


def _live(order: Order, be: Be) -> NoReturn:
    """Be what was ordered, to its end."""
    status: int | str | None
    try:
        order.become()
        status = be(order)
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
    sys.exit(main(traces="--traces" in sys.argv[1:]))
