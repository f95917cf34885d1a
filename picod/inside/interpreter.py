"""The interpreter of one context, as the runner sees it: what it is sent and tells.

The code that it runs has its descriptors and may write what it likes to the socket.
So nothing of what comes is trusted: it is checked here, and what is no frame of an
interpreter ends this interpreter alone.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import select
import sys
import time

from picod import _protocol as wire
from picod._values import unpack_dict
from picod.inside import keeper, kernel
from picod.inside.kept import Kept, killed_or_ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.context import Context
    from picod.inside.keeper import Keeper
    from picod.inside.link import Link
    from picod.inside.reaper import Reaper
    from picod.inside.spare import Spare

_FIONREAD = 0x541B
_PACKET = wire.HEADER.size + wire.MAX_PAYLOAD
_TURN = 32  # packets read before others get their turn
_SIGINT = 2
_LAST_WORDS = 0.05  # seconds between the end of the socket and that of the process


class Interpreter(Kept):
    """The process of one context, and all that it starts.

    Args:
        kept: its keeper.
        link: waits for its descriptors.
        reaper: kills its tree.
        context: whose calls it runs, once it was told to `serve` it.

    """

    forked = True

    def __init__(
        self, kept: Keeper, link: Link, reaper: Reaper, context: Context | Spare
    ) -> None:
        super().__init__(kept, link, reaper)
        self._context: Context | Spare = context
        self.taken = False
        self._parser = wire.Parser(wire.FROM_INTERPRETER)
        self._out: list[bytes] = []
        self._number = 0  # of the last call that it was given
        self._pipes = {kept.stdout: wire.STDOUT, kept.stderr: wire.STDERR}
        self._rest: dict[int, int] = {}  # what to read of each pipe before the end
        self._runs = self._done = False  # whether it said so of the call
        self._wanted = False  # whether the call is to be interrupted
        self._silent = False  # whether its end of the socket is closed
        self._given_up = float("inf")  # when it is killed for that
        self.broken = ""  # how it broke the protocol

    @property
    def busy(self) -> bool:  # type: ignore[override]
        """Whether it runs a call."""
        return self._context.run is not None

    @property
    def ready(self) -> bool:
        """Whether it can be given a call."""
        return self.begun and self.sweep_at is None and not self.alone

    @property
    def untouched(self) -> bool:
        """Whether it had a first call, of which nothing ran."""
        return self._number == 1 and not self._runs

    # -- what it is told

    def serve(self, context: Context, environment: dict[bytes, bytes]) -> bool:
        """Be *context*'s from now on, in *environment*; return False if it is dead."""
        for pid in filter(None, (self.kept.pid, self.pid)):
            kernel.kill(pid, keeper.SIGCONT)  # the code may have stopped it
        if self.alone or self.sweep_at is not None:
            return False
        self._give(1, marshal.dumps(environment, 4))  # ahead of the first call
        if self._silent:
            return False
        self._context, self.taken = context, True
        return True

    def begin(self, code: bytes) -> None:
        """Let it run *code* for the context's current call."""
        self._number += 1
        self._runs = self._done = self._wanted = False
        for descriptor in list(self._pipes):
            self._read(descriptor, to_nobody=True)
        self._give(self._number, code)

    def _give(self, number: int, data: bytes) -> None:
        view = memoryview(data)
        while len(view) > wire.MAX_PAYLOAD:
            part = view[: wire.MAX_PAYLOAD]
            self._out.append(wire.frame(wire.REQUEST_PART, number, part))
            view = view[wire.MAX_PAYLOAD :]
        self._out.append(wire.frame(wire.REQUEST, number, view))
        self._push()

    def interrupt(self) -> None:
        """Send SIGINT, as a terminal does, once the code runs."""
        self._wanted = True
        if not self._runs or self._done or self.status is not None:
            return
        try:
            os.killpg(self.pid, _SIGINT)
        except OSError:  # it left its process group
            kernel.kill(self.pid, _SIGINT)

    def _push(self) -> None:
        try:
            while self._out:
                os.write(self.kept.control, self._out[0])
                del self._out[0]
        except BlockingIOError:
            pass
        except OSError:
            self._hush()

    # -- what it tells

    def on_start(self) -> None:
        """Give it the first call."""
        self._context.advance()

    def go_on(self) -> bool:
        """Watch what can be used now; tell of the end when all is read."""
        if self.alone:
            self._end()
            return False
        if self._done:
            self._finish()
        run = self._context.run
        roomy = run is None or run.roomy
        for descriptor in self._pipes:
            self._watch(descriptor, reading=roomy)
        if not self._silent:
            self._watch(self.kept.control, reading=roomy and not self._done)
        return False

    def _watch(self, descriptor: int, *, reading: bool) -> None:
        mask = select.EPOLLIN if reading else 0
        if descriptor == self.kept.control:
            mask |= select.EPOLLOUT if self._out else 0
            self._link.watch(descriptor, mask, self._converse)
        else:
            self._link.watch(descriptor, mask, lambda: self._on_pipe(descriptor))

    def _on_pipe(self, descriptor: int) -> None:
        self._read(descriptor)
        self.go_on()

    def _read(self, descriptor: int, *, to_nobody: bool = False) -> bool:
        """Read a pipe once; return whether it may hold more."""
        run = None if to_nobody else self._context.run
        try:
            data = os.read(descriptor, wire.MAX_PAYLOAD)
        except BlockingIOError:
            return False
        if not data:
            self._link.watch(descriptor, 0, self.go_on)
            self._pipes.pop(descriptor)
            return False
        if descriptor in self._rest:
            self._rest[descriptor] -= len(data)
        if run is not None:
            run.output(self._pipes[descriptor], data)
        return True

    def _converse(self) -> None:
        """Pass on what came on the socket; what the pipes hold came before it."""
        self._push()
        run = self._context.run
        for descriptor in list(self._pipes):
            if run is None or run.roomy:
                self._read(descriptor)
        for _ in range(_TURN):
            if self._done or not (run is None or run.roomy) or not self._hear_once():
                break
        self.go_on()

    def _hear_once(self) -> bool:
        """Take one packet; return whether there may be more."""
        try:
            packet = os.read(self.kept.control, _PACKET)
            if not packet:
                self._hush()
                return False
            for kind, number, payload in self._parser.feed(packet):
                self._take(kind, number, payload)
            self._parser.check_whole()
        except BlockingIOError:
            return False
        except OSError:
            self._hush()
            return False
        except wire.ProtocolError as error:
            self.broken = f"it broke the protocol of interpreters: {error}"
            self._hush()
            return False
        return True

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        run = self._context.run
        if run is None or self._done:
            return
        if kind in (wire.STDOUT, wire.STDERR):  # a thread or a fork may be late
            run.output(kind, payload)
        elif number != self._number:
            return
        elif kind == wire.STARTED:
            self._runs = True
            if self._wanted:
                self.interrupt()
        elif kind == wire.RESULT:
            run.result(unpack_dict(payload))
        elif kind == wire.DATA:
            run.result_data(payload)
        elif kind == wire.RAISED:
            run.raised(unpack_dict(payload))
        else:
            self._done = True
            self._rest = {each: _unread(each) for each in self._pipes}

    def _hush(self) -> None:
        """Give up an interpreter that does not speak any more."""
        self._silent = True
        self._link.watch(self.kept.control, 0, self.go_on)
        if self.status is None and self.sweep_at is None:  # it may be about to end
            self.sweep_at = self._given_up = time.monotonic() + _LAST_WORDS

    # -- the end of a call, and its own

    def _finish(self) -> None:
        """Tell that the call is over, once what it wrote before is read."""
        run = self._context.run
        for descriptor in list(self._pipes):
            while self._rest.get(descriptor, 0) > 0:
                if run is not None and not run.roomy:
                    return
                if not self._read(descriptor):
                    break
        if run is not None and not run.roomy:  # the last of it waits for credit
            return
        self._rest = {}
        self._done = False
        self._context.finished()

    def _end(self) -> None:
        """Read what it left, then let go of it."""
        run = self._context.run
        while not self._silent and (run is None or run.roomy):
            if not self._hear_once():
                break
        for descriptor in list(self._pipes):
            while run is None or run.roomy:
                if not self._read(descriptor):
                    break
        if run is not None and not run.roomy:
            return
        for descriptor in [*self._pipes, self.kept.control]:
            self._link.watch(descriptor, 0, self.go_on)
        self._silent = True
        self.settle()
        self._context.gone()

    @property
    def fate(self) -> str:
        """How it ended, in words."""
        if self.broken:
            return self.broken
        code, signal = killed_or_ended(self.status)
        if not signal:
            return f"it ended itself with status {code}"
        if signal == kernel.SIGKILL and self.ended >= self._given_up:
            return "it closed its connection"
        if signal == kernel.SIGKILL:
            return "it was killed, by its code or for the memory that it used"
        return f"it was ended by signal {signal}"


def _unread(descriptor: int) -> int:
    """Tell how many bytes wait in a pipe."""
    told = fcntl.ioctl(descriptor, _FIONREAD, b"\0" * 4)
    return int.from_bytes(told, sys.byteorder)
