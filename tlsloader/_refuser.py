"""A tiny HTTP/2 server that answers every call with UNAVAILABLE and a reason.

Closing the connection instead would show callers a bare "Socket closed" and make
gRPC wait for about a second before it dials again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tlsloader._frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER,
    HEADERS_KIND,
    PING_KIND,
    PREFACE,
    RST_STREAM_KIND,
    SETTINGS_KIND,
    frame,
)

if TYPE_CHECKING:
    from tlsloader._end import End

__all__ = ["Refuser"]

_UNAVAILABLE: Final = b"14"
_NO_ERROR: Final = bytes(4)
_LONGEST_TEXT: Final = 1024
_LONGEST_FRAME: Final = 16384 + HEADER
_SEVEN_BITS: Final = 0x7F
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


def _number(value: int) -> bytes:
    """Encode a length with a 7-bit prefix. Source: RFC 7541, section 5.1."""
    if value < _SEVEN_BITS:
        return bytes((value,))
    value -= _SEVEN_BITS
    out = bytearray((_SEVEN_BITS,))
    while value > _SEVEN_BITS:
        out.append(value & _SEVEN_BITS | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _literal(name: bytes, value: bytes) -> bytes:
    """Encode one header that enters no table. Source: RFC 7541, section 6.2.2."""
    return b"\0" + _number(len(name)) + name + _number(len(value)) + value


def _percent(text: str) -> bytes:
    """Encode ``grpc-message``. Source: gRPC over HTTP/2, Status-Message."""
    return "".join(
        chr(byte) if byte in _PLAIN else f"%{byte:02X}"
        for byte in text[:_LONGEST_TEXT].encode(errors="replace")
    ).encode()


def _answer(text: str) -> bytes:
    """Make the header block of a trailers-only answer; 0x88 is ``:status: 200``."""
    return (
        b"\x88"
        + _literal(b"content-type", b"application/grpc")
        + _literal(b"grpc-status", _UNAVAILABLE)
        + _literal(b"grpc-message", _percent(text))
    )


class Refuser:
    """Answer the calls on the connection *end* with *text*, then let it go.

    The first call is answered together with a GOAWAY, so that the next ones dial
    anew; those that are under way already get the same answer. A connection on which
    nobody calls is let go after *patience* seconds: the reason would be stale.
    """

    def __init__(self, end: End, text: str, *, patience: float = 0.1) -> None:
        self._end = end
        self._block = _answer(text)
        self._patience = patience
        self._heard = bytearray()
        self._skip = len(PREFACE)
        self._leaving = False

    async def run(self) -> None:
        """Serve until the client is gone, at most a second after the first call."""
        loop = asyncio.get_running_loop()
        transport = self._end.transport
        transport.write(frame(SETTINGS_KIND, 0, 0))
        # Who does not read our answers is not read from, either
        self._end.attach(self._received, transport.close, self._end.hold)
        self._end.hold(paused=False)
        timers = [loop.call_later(self._patience, self._leave)]
        timers.append(loop.call_later(self._patience + 1, transport.abort))
        try:
            self._end.release()
            await asyncio.shield(self._end.lost)
        finally:
            for timer in timers:
                timer.cancel()
            transport.abort()

    def _leave(self) -> None:
        if not self._leaving:
            self._leaving = True
            self._end.send(GOAWAY)

    def _received(self, data: bytes) -> None:
        heard, at = self._heard, self._skip
        heard += data
        while (start := at + HEADER) <= len(heard):
            end = start + int.from_bytes(heard[at : at + 3], "big")
            if end - at > _LONGEST_FRAME:
                self._end.silence()
                self._end.transport.abort()
                return
            if end > len(heard):
                break
            self._take(bytes(heard[at:end]))
            at = end
        if at <= len(heard):
            del heard[:at]
            self._skip = 0

    def _take(self, whole: bytes) -> None:
        kind, flags = whole[3], whole[4]
        stream = int.from_bytes(whole[5:HEADER], "big") & 0x7FFFFFFF
        send = self._end.send
        if kind == SETTINGS_KIND and not flags & ACK:
            send(frame(SETTINGS_KIND, ACK, 0))
        elif kind == PING_KIND and not flags & ACK:
            send(frame(PING_KIND, ACK, 0, whole[HEADER:]))
        elif kind == HEADERS_KIND:
            answer = frame(HEADERS_KIND, END_HEADERS | END_STREAM, stream, self._block)
            if not flags & END_STREAM:
                answer += frame(RST_STREAM_KIND, 0, stream, _NO_ERROR)
            send(answer)
            self._leave()
