"""The nursery: the process that interpreters are forked from.

It is forked from the runner, imports once what every interpreter needs, and runs no
code of a session. The keeper of an interpreter is forked through it and given to the
runner as its child, so that the end of the nursery takes nothing along.
"""

from __future__ import annotations

import _socket
import marshal
import os
import select
import struct
import time

from picod._protocol import ProtocolError
from picod._values import number, text, unpack_dict
from picod.inside import births, keeper, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from picod._values import Value
    from picod.inside.keeper import Order
    from picod.inside.link import Link
    from picod.inside.reaper import Reaper

_LARGEST = 256 * 1024
_LONGEST = 60.0  # seconds that one import may take
_PAUSE = 1.0  # seconds until one is made ahead again
_DESCRIPTORS = struct.Struct("=4i")


class Nursery:
    """The nursery as the runner sees it; it is made when it is first needed.

    Args:
        link: waits for what it tells.
        reaper: spares it.
        load: gives a fork of ours the modules that only interpreters need.
        imports: the packages to import, in this order.
        isolated: whether it ends with us anyway.

    """

    def __init__(
        self,
        link: Link,
        reaper: Reaper,
        load: Callable[[], None],
        imports: list[bytes],
        *,
        isolated: bool,
    ) -> None:
        self._link, self._reaper = link, reaper
        self._load, self._isolated = load, isolated
        self._names = imports
        self.imports: dict[bytes, dict[bytes, Value]] = {}
        self._socket: _socket.socket | None = None
        self.ready_at = 0.0  # when it had imported everything; 0: not yet
        self._importing = b""
        self.overdue = float("inf")  # when what it does before has taken too long
        self.again_at = 0.0  # when to make it ahead, after one has ended

    def open(self) -> None:
        """Make it unless it is there.

        Raises:
            OSError: no process or descriptor is left for it.

        """
        if self._socket is not None:
            return
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        wanted = [name for name in self._names if not self._failed(name)]
        pid = os.fork()
        if pid == 0:
            births.live(theirs, self._load, wanted, isolated=self._isolated)
        theirs.close()
        os.set_blocking(ours.fileno(), False)
        self._socket, self._reaper.nursery, self.ready_at = ours, pid, 0.0
        self.overdue = time.monotonic() + _LONGEST
        self._link.watch(ours.fileno(), select.EPOLLIN, self._hear)

    def bear(self, order: Order) -> keeper.Keeper:
        """Have it fork a keeper, and beneath that the interpreter of *order*.

        The interpreter waits to be told its environment: that of *order* is not used.

        Raises:
            OSError: no process or descriptor is left for it.

        """
        try:
            return self._ask(order)
        except ConnectionError:  # it was killed, and we did not know yet
            self.end()
            return self._ask(order)

    def _ask(self, order: Order) -> keeper.Keeper:
        self.open()
        assert self._socket is not None  # noqa: S101
        stdout, their_stdout, stderr, their_stderr, report, their_report = keeper.pipes(
            3
        )
        control, their_control = _socket.socketpair(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET
        )
        theirs = (their_stdout, their_stderr, their_report, their_control.detach())
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _DESCRIPTORS.pack(*theirs))
        try:
            self.wake()
            bare = marshal.dumps((order[0], {}, *order[2:]), 4)
            self._socket.sendmsg([bare], [rights])
        except OSError:
            keeper.close([stdout, stderr, report])
            raise
        finally:
            keeper.close([*theirs])
        ends = (stdout, stderr, report, -1, -1)
        return keeper.Keeper(0, ends, control=control.detach())

    def wake(self) -> None:
        """Let it go on, should the code have stopped it."""
        if self._reaper.nursery:
            kernel.kill(self._reaper.nursery, keeper.SIGCONT)

    def end(self) -> None:
        """Kill it; the next one is made when it is needed."""
        if self._socket is None:
            return
        kernel.kill(self._reaper.nursery)
        os.waitpid(self._reaper.nursery, 0)
        self._link.watch(self._socket.fileno(), 0, self._hear)
        self._socket.close()
        self._socket, self._reaper.nursery, self.overdue = None, 0, float("inf")
        self.again_at = time.monotonic() + _PAUSE
        if self._importing:
            self._note(self._importing, error=b"it ended or blocked the interpreter")

    # -- what it tells

    def _hear(self) -> None:
        assert self._socket is not None  # noqa: S101
        try:
            told = self._socket.recv(_LARGEST)
            if told:
                self._learn(unpack_dict(told))
                return
        except (OSError, ProtocolError):
            pass
        self.end()

    def _learn(self, told: dict[bytes, Value]) -> None:
        name = text(told, b"name")
        if not name:
            self.ready_at, self.overdue = time.monotonic(), float("inf")
        elif b"error" in told:
            spent, held = number(told, b"duration_ns"), number(told, b"memory")
            self._note(name, spent, held, text(told, b"error"))
        else:
            self._importing, self.overdue = name, time.monotonic() + _LONGEST

    def _note(
        self, name: bytes, spent: int = 0, held: int = 0, error: bytes = b""
    ) -> None:
        self._importing = b""
        self.imports[name] = {
            b"name": name,
            b"duration_ns": spent,
            b"memory": held,
            b"error": error,
        }

    def _failed(self, name: bytes) -> bool:
        return name in self.imports and bool(self.imports[name][b"error"])

    def silent(self, since: float) -> bool:
        """Tell whether it was ready at *since*, and so should have answered."""
        return self._socket is None or 0 < self.ready_at <= since

    def told(self) -> Iterator[dict[bytes, Value]]:
        """Yield what is known of the imports, in their order."""
        yield from (self.imports[name] for name in self._names if name in self.imports)

    def failures(self) -> bytes:
        """Tell in words which imports failed."""
        told = [
            b"%s could not be imported ahead: %s" % (name, text(how, b"error"))
            for name, how in self.imports.items()
            if how[b"error"]
        ]
        return b"; ".join(told)
