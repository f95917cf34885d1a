"""One of two connections that a relay joins."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["End"]

_HELD: Final = 1 << 16
"""Bytes that are kept for a relay that does not stand yet."""


def _drop(_data: bytes) -> None:
    """Take what still comes in after the end."""


class End(asyncio.Protocol):
    """One of two connections; keeps what it hears until somebody listens.

    Plain ``Protocol`` on purpose: asyncio's ``BufferedProtocol`` over TLS loses
    bytes unless its buffer is a memoryview, and gains nothing here.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.heard: asyncio.Future[bool] = loop.create_future()
        """True at the first byte; False if the connection ended before."""
        self.lost: asyncio.Future[None] = loop.create_future()
        self.connected = False
        self.full = False
        self._held: list[bytes] = []
        self._held_size = 0
        self._deliver: Callable[[bytes], None] | None = None
        self._ended: Callable[[], object] | None = None
        self._flow: Callable[[bool], None] | None = None

    def watch(self, ended: Callable[[], object]) -> None:
        """Have *ended* called at the end, while bytes are still being kept."""
        self._ended = ended

    def attach(
        self,
        deliver: Callable[[bytes], None],
        ended: Callable[[], None],
        flow: Callable[[bool], None] | None = None,
    ) -> None:
        """From now on hand bytes to *deliver*, and say when they end.

        *flow* hears ``True`` when this side takes no more for now, ``False`` when
        it does again. What was held back is delivered by `release`.
        """
        self._deliver, self._ended, self._flow = deliver, ended, flow

    def redirect(self, deliver: Callable[[bytes], None]) -> None:
        """From now on hand bytes to *deliver* instead."""
        self._deliver = deliver

    def release(self) -> None:
        """Deliver what was held back, in order."""
        held, self._held = self._held, []
        for data in held:
            if self._deliver is not None:
                self._deliver(data)
        if self.lost.done() and self._ended is not None:
            self._ended()

    def silence(self) -> None:
        """Deliver nothing any more."""
        self.redirect(_drop)

    def send(self, data: bytes) -> None:
        """Write *data*, unless this side is ending."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def hold(self, paused: bool) -> None:  # noqa: FBT001
        """Stop reading, or go on."""
        if self.transport.is_closing():
            return
        # uvloop raises for a connection that ends at this very moment
        with suppress(RuntimeError):
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's
        self.transport = cast("asyncio.Transport", transport)
        self.connected = True

    def data_received(self, data: bytes) -> None:
        if self._deliver is not None:
            self._deliver(data)
            return
        # Reading goes on for a while, since only who reads notices the other's end
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size > _HELD:
            self.hold(paused=True)
        if not self.heard.done():
            self.heard.set_result(True)

    def pause_writing(self) -> None:
        self.full = True
        if self._flow is not None:
            self._flow(True)  # noqa: FBT003

    def resume_writing(self) -> None:
        self.full = False
        if self._flow is not None:
            self._flow(False)  # noqa: FBT003

    def eof_received(self) -> None:
        """End both ways: TLS knows no half-open connection that gRPC would use."""
        if not self.heard.done():
            self.heard.set_result(False)
        if self._ended is not None:
            self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.eof_received()
        if not self.lost.done():
            self.lost.set_result(None)
