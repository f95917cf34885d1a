"""The runner's end of the socket to PicoD, and what all its streams share."""

from __future__ import annotations

import errno
import os
import select
import time

from picod import _protocol as wire
from picod._values import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from picod._values import Value

_NEVER = float("inf")
_ROOM = 512 * 1024
_READ = 96 * 1024  # more of it malloc would map anew each time
_COMPANY = 0.002  # seconds that news of a start may wait for what follows
_GRANT = wire.CREDIT // 4


class HungUpError(Exception):
    """PicoD is gone."""


class Link:
    """Sends frames without ever blocking, and waits for all descriptors at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._parser = wire.Parser(wire.TO_RUNNER)
        self._out: list[bytes] = []
        self._pending = 0
        self._due = _NEVER  # when what waits must be sent
        self._blocked = False  # whether the socket is full
        self.quiet = False  # whether the last wait found nothing
        self._poll = select.epoll()
        self._watched: dict[int, int] = {}
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._poll.register(descriptor, select.EPOLLIN)

    @property
    def room(self) -> bool:
        """Whether more may be sent without piling up."""
        return self._pending < _ROOM

    def send(
        self,
        kind: int,
        stream: int,
        payload: bytes | memoryview = b"",
        *,
        by: float = 0,
    ) -> None:
        """Send one frame before we wait again, or as soon as the socket takes it.

        With *by* it may wait until then, on the monotonic clock, for others to join.
        """
        data = wire.frame(kind, stream, payload)
        self._out.append(data)
        self._pending += len(data)
        self._due = min(self._due, by)

    def _flush(self) -> None:
        """Send all that waits; what the socket does not take goes when it can."""
        try:
            while self._out:
                sent = os.writev(self._descriptor, self._out[:64])
                self._pending -= sent
                while self._out and sent >= len(self._out[0]):
                    sent -= len(self._out.pop(0))
                if sent:
                    self._out[0] = self._out[0][sent:]
        except BlockingIOError:
            pass
        except OSError as error:
            raise HungUpError from error
        self._due = _NEVER
        blocked = bool(self._out)
        if blocked != self._blocked:
            more = select.EPOLLOUT if blocked else 0
            self._poll.modify(self._descriptor, select.EPOLLIN | more)
            self._blocked = blocked

    def received(self) -> Iterator[tuple[int, int, bytes]]:
        """Read what has come and yield its frames.

        Raises:
            HungUpError: there will be no more.
            wire.ProtocolError: it is no protocol of ours.

        """
        try:
            data = os.read(self._descriptor, _READ)
        except BlockingIOError:
            return
        except OSError as error:
            raise HungUpError from error
        if not data:
            raise HungUpError
        yield from self._parser.feed(data)

    def watch(self, descriptor: int, mask: int, callback: Callable[[], object]) -> None:
        """Call *callback* whenever *descriptor* is ready for *mask*; 0: no more.

        A hang-up cannot be masked, so what is not wanted is not watched at all.
        """
        known = self._watched.get(descriptor, 0)
        if mask == known:
            return
        if not mask:
            self._poll.unregister(descriptor)
            del self._watched[descriptor], self._callbacks[descriptor]
            return
        if known:
            self._poll.modify(descriptor, mask)
        else:
            self._poll.register(descriptor, mask)
        self._watched[descriptor], self._callbacks[descriptor] = mask, callback

    def wait(self, seconds: float) -> bool:
        """Wait at most *seconds*, run the callbacks of what is ready.

        Returns whether PicoD sent something.
        """
        if self._due < _NEVER and not self._blocked:
            left = self._due - time.monotonic()
            if left <= 0:
                self._flush()
            else:
                seconds = min(seconds, left)
        try:
            events = self._poll.poll(seconds)
        except InterruptedError:
            return False
        incoming, self.quiet = False, not events
        for descriptor, mask in events:
            if descriptor == self._descriptor:
                if mask & select.EPOLLOUT:
                    self._flush()
                incoming = incoming or bool(mask & ~select.EPOLLOUT)
            else:
                callback = self._callbacks.get(descriptor)
                if callback is not None:
                    callback()
        return incoming


class Call:
    """One stream: its credit in both directions, and its one last frame."""

    def __init__(self, link: Link, stream: int) -> None:
        self.link, self.stream = link, stream
        self.credit = wire.CREDIT  # what we may still send
        self._allowed = wire.CREDIT  # what PicoD may still send
        self._taken = 0
        self.over = False

    @property
    def free(self) -> int:
        """How many bytes may be sent right now in one frame."""
        return min(self.credit, wire.MAX_PAYLOAD) if self.link.room else 0

    def send(self, kind: int, payload: bytes | memoryview = b"") -> None:
        """Send one frame on this stream."""
        if kind in wire.CREDITED:
            self.credit -= len(payload)
        self.link.send(kind, self.stream, payload)

    def count(self, size: int) -> None:
        """Note that PicoD sent *size* bytes.

        Raises:
            wire.ProtocolError: more than it was allowed to.

        """
        self._allowed -= size
        if self._allowed < 0:
            raise wire.ProtocolError("more data than was allowed")

    def take(self, size: int) -> None:
        """Note that *size* bytes from PicoD are used up, and allow as many again."""
        self._taken += size
        if self._taken >= _GRANT and not self.over:
            self.link.send(wire.WINDOW, self.stream, self._taken.to_bytes(4, "big"))
            self._allowed += self._taken
            self._taken = 0

    def allow(self, count: int) -> None:
        """Note that PicoD takes *count* bytes more.

        Raises:
            wire.ProtocolError: more than it ever may owe.

        """
        self.credit += count
        if not count or self.credit > wire.CREDIT:
            raise wire.ProtocolError("more credit than there is")

    def start(self, values: dict[bytes, Value]) -> None:
        """Tell of the start; most calls are over so soon that all goes together."""
        by = time.monotonic() + _COMPANY
        self.link.send(wire.STARTED, self.stream, pack(values), by=by)

    def done(self, values: dict[bytes, Value]) -> None:
        """End the stream well."""
        self.over = True
        self.send(wire.DONE, pack(values))

    def fail(self, reason: bytes, detail: str) -> None:
        """End the stream with an error."""
        self.over = True
        text = detail.encode("utf-8", "backslashreplace")[:500]
        self.send(wire.ERROR, pack({b"reason": reason, b"detail": text}))


REASONS = {
    errno.ENOENT: b"FILE_NOT_FOUND",
    errno.EEXIST: b"FILE_EXISTS",
    errno.ENOTDIR: b"NOT_A_DIRECTORY",
    errno.EISDIR: b"IS_A_DIRECTORY",
    errno.ENOTEMPTY: b"DIRECTORY_NOT_EMPTY",
    errno.EACCES: b"FILE_PERMISSION",
    errno.EPERM: b"FILE_PERMISSION",
    errno.ETXTBSY: b"FILE_PERMISSION",
    errno.ENOSPC: b"NO_SPACE",
    errno.EDQUOT: b"NO_SPACE",
    errno.EFBIG: b"FILE_TOO_LARGE",
    errno.ENAMETOOLONG: b"INVALID_PATH",
    errno.EINVAL: b"INVALID_PATH",
    errno.EXDEV: b"INVALID_PATH",
    errno.EBUSY: b"INVALID_PATH",
    errno.ELOOP: b"NOT_A_REGULAR_FILE",
    errno.ENXIO: b"NOT_A_REGULAR_FILE",
    errno.EAGAIN: b"PROCESS_LIMIT",
    errno.ENOMEM: b"PROCESS_LIMIT",
}


def reason_of(number: int) -> bytes:
    """Name the reason of the error *number* of a file operation."""
    return REASONS.get(number, b"INTERNAL")
