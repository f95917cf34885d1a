"""One stream to the runner: what comes is queued, what goes waits for credit."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from picod import _protocol as wire
from picod._errors import ERRORS_BY_REASON, PicoDError
from picod._values import text, unpack_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from picod._link import Link

__all__ = ["Stream"]

_GRANT = wire.CREDIT // 4


class Stream:
    """A stream that we opened; it ends with DONE, ERROR or the runner.

    Never more than `CREDIT` bytes wait here: the runner may not send more.
    """

    def __init__(self, link: Link, number: int) -> None:
        self._link, self.number = link, number
        self._items: deque[tuple[int, bytes]] = deque()
        self._allowed = wire.CREDIT  # what the runner may still send
        self._taken = 0
        self._credit = wire.CREDIT  # what we may still send
        self._feed = memoryview(b"")
        self._heard = 0
        self._error: PicoDError | None = None
        self._changed: asyncio.Future[None] | None = None
        self._cancelled = False
        self.over = False
        self.finished: asyncio.Future[None]
        self.finished = asyncio.get_running_loop().create_future()

    # -- what the runner sends

    def take(self, kind: int, payload: bytes) -> None:
        """Queue one frame.

        Raises:
            wire.ProtocolError: this stream cannot have it now.

        """
        self._heard += 1
        if kind == wire.WINDOW:
            self._allow(wire.window_count(payload))
        else:
            if kind in wire.CREDITED:
                self._allowed -= len(payload)
                if self._allowed < 0:
                    raise wire.ProtocolError("more data than was allowed")
            if kind == wire.ERROR:
                self._error = _error(payload)
            elif not self._cancelled:
                self._items.append((kind, payload))
            if kind in (wire.DONE, wire.ERROR):
                self._finish()
        self._wake()

    def _allow(self, count: int) -> None:
        self._credit += count
        if not count or self._credit > wire.CREDIT:
            raise wire.ProtocolError("more credit than there is")
        self._push()

    def _finish(self) -> None:
        self.over = True
        if not self.finished.done():
            self.finished.set_result(None)

    def break_off(self, error: PicoDError) -> None:
        """End the stream with *error*; what waits is still read first."""
        self._error = error
        self._finish()
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _change(self) -> None:
        self._changed = asyncio.get_running_loop().create_future()
        try:
            await self._changed
        finally:
            self._changed = None

    # -- what we do

    def silent(self) -> Callable[[], bool]:
        """Make a check whether nothing came since it was last asked, though it could.

        A reader who lags behind is not the runner's fault.
        """
        heard = -1

        def check() -> bool:
            nonlocal heard
            before, heard = heard, self._heard
            waiting = not self._items and self._allowed > 0 and not self.over
            return waiting and before == heard

        return check

    async def next(self) -> tuple[int, bytes]:
        """Wait for the next frame; data frames of one kind come joined.

        Raises:
            PicoDError: the stream ended with this error.

        """
        while not self._items:
            if self._error is not None:
                raise self._error
            await self._change()
        kind, payload = self._items.popleft()
        if kind in wire.CREDITED:
            if kind != wire.ENTRIES and self._items and self._items[0][0] == kind:
                payload = self._join(kind, payload)
            self._give(len(payload))
        return kind, payload

    async def batch(self) -> list[tuple[int, bytes]]:
        """Wait for the next frame; return it with what else has come by then.

        That is little more than `CREDIT` bytes.

        Raises:
            PicoDError: the stream ended with this error.

        """
        frames = [await self.next()]
        size = len(frames[0][1])
        while self._items and size < wire.CREDIT:
            frames.append(await self.next())
            size += len(frames[-1][1])
        return frames

    def _join(self, kind: int, first: bytes) -> bytes:
        parts = [first]
        while self._items and self._items[0][0] == kind:
            parts.append(self._items.popleft()[1])
        return b"".join(parts)

    def _give(self, size: int) -> None:
        self._taken += size
        if self._taken >= _GRANT and not self.over:
            self._link.send(wire.window(self.number, self._taken))
            self._allowed += self._taken
            self._taken = 0

    async def send(self, data: bytes | memoryview) -> None:
        """Send *data* in frames, waiting for credit.

        Raises:
            PicoDError: the stream ended with this error.

        """
        rest = memoryview(data)
        while rest:
            while not self._credit and not self.over:
                await self._change()
            if self._error is not None:
                raise self._error
            size = min(len(rest), wire.MAX_PAYLOAD, self._credit)
            self._credit -= size
            self._link.send(wire.frame(wire.DATA, self.number, rest[:size]))
            rest = rest[size:]

    def feed(self, data: bytes) -> None:
        """Send all of *data* and the end, as the credit comes; do not wait."""
        self._feed = memoryview(data)
        self._push()

    def _push(self) -> None:
        while self._feed and self._credit and not self.over and not self._cancelled:
            size = min(len(self._feed), wire.MAX_PAYLOAD, self._credit)
            self._credit -= size
            self._link.send(wire.frame(wire.DATA, self.number, self._feed[:size]))
            self._feed = self._feed[size:]
            if not self._feed:
                self.end()

    def end(self, payload: bytes = b"") -> None:
        """Say that no more data comes."""
        if not self.over:
            self._link.send(wire.frame(wire.END, self.number, payload))

    async def aclose(self) -> None:
        """Cancel the work unless it is over, and wait until it is."""
        if self.over:
            return
        self._cancelled = True
        self._items.clear()
        self._link.send(wire.frame(wire.CANCEL, self.number))
        watch = self._link.late(0, lambda: not self.over)
        self.finished.add_done_callback(lambda _: watch.end())
        await asyncio.shield(self.finished)


def _error(payload: bytes) -> PicoDError:
    values = unpack_dict(payload)
    reason = text(values, b"reason").decode("ascii", "replace")
    detail = text(values, b"detail").decode("utf-8", "replace")
    kind = ERRORS_BY_REASON.get(reason)
    return kind(detail) if kind else PicoDError()
