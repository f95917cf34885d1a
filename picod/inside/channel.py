"""The interpreter's end of the socket to the runner, and what is printed through it.

One socket keeps output, results and the end of a call in the order in which they came
to be. The names are bound when this is loaded: code may replace them in their modules.
"""

from __future__ import annotations

import io
from _thread import RLock
from fcntl import ioctl
from os import getpid, read, register_at_fork, write
from time import sleep

from picod import _protocol as wire
from picod._values import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from picod._values import Value
    from picod.inside.bundles import Bundle

_SIOCOUTQ = 0x5411
_FULL = 32 * 1024  # printed bytes that are sent without waiting for the line's end
_PACKET = wire.HEADER.size + wire.MAX_PAYLOAD
_LOOKS, _LOOK = 200, 0.0005  # how long to wait for the runner, in all 0.1 s


class Channel:
    """Sends whole frames, one packet each, which no fork can tear.

    Args:
        descriptor: a socket of packets.

    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.pid = getpid()
        self.running = False  # whether there is a call that output could belong to
        self._number = 0
        self._parser = wire.Parser(wire.TO_INTERPRETER)
        self._lock = RLock()
        self._held = b""  # frames that go together with the next
        self._pieces: list[bytes] = []
        self._size = self._kind = 0
        register_at_fork(before=self.settle, after_in_child=self._in_fork)

    @property
    def forked(self) -> bool:
        """Whether the code has forked us."""
        return getpid() != self.pid

    def _in_fork(self) -> None:
        self._lock = RLock()  # whoever held it does not exist here

    def receive(self) -> bytes:
        """Wait for the code of the next call.

        Raises:
            EOFError: there will be none.

        """
        parts: list[bytes] = []
        while True:
            packet = read(self.descriptor, _PACKET)
            if not packet:
                raise EOFError
            for kind, number, payload in self._parser.feed(packet):
                parts.append(payload)
                if kind == wire.REQUEST:
                    self._number = number
                    return b"".join(parts)

    def send(self, kind: int, payload: bytes = b"", *, more: bool = False) -> None:
        """Send one frame behind all that was printed; *more*: the next one follows."""
        with self._lock:
            self.flush()
            self._put(kind, payload, more=more)

    def _put(self, kind: int, payload: bytes, *, more: bool = False) -> None:
        """Send one frame, in one packet with those that were held, if it holds them."""
        frame = wire.frame(kind, self._number, payload)
        if len(self._held) + len(frame) > _PACKET:
            self._release()
        self._held += frame
        if not more:
            self._release()

    def _release(self) -> None:
        packet, self._held = self._held, b""
        if packet:
            write(self.descriptor, packet)

    def show(self, made: Bundle, *, main: bool = False) -> None:
        """Send a result: its head, and its data in the order of the head's keys.

        The *main* one is the last of its call: it goes with what tells of the end.
        """
        forms = {_name(name): data for name, data in made.data.items()}
        parts: dict[bytes, Value] = {name: len(data) for name, data in forms.items()}
        cut: dict[bytes, Value] = {
            _name(name): note.encode() for name, note in made.cut.items()
        }
        head: dict[bytes, Value] = {b"main": int(main), b"parts": parts, b"cut": cut}
        data = b"".join(forms[name] for name in sorted(forms))
        with self._lock:
            self.send(wire.RESULT, pack(head), more=True)
            for at in range(0, len(data), wire.MAX_PAYLOAD):
                self._put(wire.DATA, data[at : at + wire.MAX_PAYLOAD], more=True)
            if not main:
                self._release()

    def print(self, kind: int, data: bytes) -> None:
        """Send what was printed, as soon as a line is complete or *kind* changes."""
        with self._lock:
            if not self.running:
                return
            if kind != self._kind:
                self.flush()
            self._kind = kind
            self._pieces.append(data)
            self._size += len(data)
            if self._size >= _FULL or b"\n" in data or b"\r" in data:
                self.flush()

    def flush(self) -> None:
        """Send what was printed so far."""
        with self._lock:
            if not self._pieces:
                return
            data, self._pieces, self._size = b"".join(self._pieces), [], 0
            for at in range(0, len(data), wire.MAX_PAYLOAD):
                self._put(self._kind, data[at : at + wire.MAX_PAYLOAD])

    def settle(self) -> None:
        """Flush, and wait a moment until the runner has read it.

        Then comes what another process writes to our standard output.
        """
        with self._lock:
            self.flush()
            self._release()
        try:
            for _ in range(_LOOKS):
                waiting = ioctl(self.descriptor, _SIOCOUTQ, b"\0" * 4)
                if not any(waiting):
                    return
                sleep(_LOOK)
        except OSError:
            return


def _name(name: str) -> bytes:
    return name.encode("ascii", "replace")[:255]


class Output(io.RawIOBase):
    """What lies beneath `sys.stdout` and `sys.stderr`.

    Args:
        put: takes what is written.
        flush: sends it.
        descriptor: where other programs write the same.

    """

    def __init__(
        self, put: Callable[[bytes], None], flush: Callable[[], None], descriptor: int
    ) -> None:
        super().__init__()
        self._put, self._flush, self._descriptor = put, flush, descriptor
        self.name = ("<stdout>", "<stderr>")[descriptor - 1]
        self.mode = "wb"

    def writable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Name the descriptor that other programs inherit."""
        return self._descriptor

    def write(self, data: Any) -> int:
        """Take *data*."""
        piece = bytes(data)
        self._put(piece)
        return len(piece)

    def flush(self) -> None:
        """Send what was written so far."""
        if not self.closed:
            self._flush()


def streams(channel: Channel) -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    """Make what becomes `sys.stdout` and `sys.stderr`."""

    def made(kind: int, descriptor: int) -> io.TextIOWrapper:
        def put(data: bytes) -> None:
            channel.print(kind, data)

        raw: Any = Output(put, channel.flush, descriptor)
        stream = io.TextIOWrapper(
            raw, encoding="utf-8", errors="backslashreplace", write_through=True
        )
        stream.mode = "w"  # type: ignore[misc]
        return stream

    return made(wire.STDOUT, 1), made(wire.STDERR, 2)
