"""HTTP/2 frames: make a few, and follow the borders of those that pass."""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "GOAWAY",
    "HEADER",
    "PREFACE",
    "FrameFollower",
    "frame",
    "goaway",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first. Source: RFC 9113, section 3.4."""

HEADER: Final = 9
"""Bytes of a frame header. Source: RFC 9113, section 4.1."""

HEADERS_KIND: Final = 0x1
RST_STREAM_KIND: Final = 0x3
SETTINGS_KIND: Final = 0x4
PUSH_PROMISE_KIND: Final = 0x5
PING_KIND: Final = 0x6
GOAWAY_KIND: Final = 0x7
CONTINUATION_KIND: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4

_HEAD: Final = struct.Struct(">HBBB")
_LONGEST_REASON: Final = 1024
_BLOCKS: Final = frozenset((HEADERS_KIND, PUSH_PROMISE_KIND, CONTINUATION_KIND))
_NOTED: Final = _BLOCKS | {GOAWAY_KIND}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Make one frame. Source: RFC 9113, section 4.1."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream.to_bytes(4, "big") + payload


def goaway(reason: str = "") -> bytes:
    """Say: no new streams, please; all that were begun will be served (NO_ERROR).

    *reason* is for people (debug data): gRPC shows it to calls that fail when the
    connection is closed after all. Source: RFC 9113, section 6.8 (graceful shutdown).
    """
    last_stream, error = b"\x7f\xff\xff\xff", bytes(4)
    text = reason.encode(errors="replace")[:_LONGEST_REASON]
    return frame(GOAWAY_KIND, 0, 0, last_stream + error + text)


GOAWAY: Final = goaway()


class FrameFollower:
    """Know, of the bytes one side sends, where one frame ends and the next begins.

    A place inside a header block (HEADERS without END_HEADERS, then CONTINUATION)
    does not count: nothing may stand between them. Nor does the very start: the
    first frame must be the server's SETTINGS. *skip* is the length of what comes
    before the frames: a client says `PREFACE` first.
    Source: RFC 9113, sections 3.4 and 6.10.
    """

    __slots__ = (
        "_block_open",
        "_head",
        "_left",
        "_started",
        "goaway_at",
        "goaway_seen",
        "headers_seen",
    )

    def __init__(self, skip: int = 0) -> None:
        self.headers_seen = False
        """Whether a stream has begun."""
        self.goaway_seen = False
        """Whether a GOAWAY has passed, or its beginning."""
        self.goaway_at = 0
        """Where the first began, in what was fed then."""
        self._head = b""
        self._left = skip
        self._block_open = False
        self._started = False

    @property
    def at_border(self) -> bool:
        """Whether a frame may be put behind all that was fed."""
        return self._started and not (self._left or self._block_open) and not self._head

    def feed(self, data: bytes) -> int:
        """Follow *data*; return the offset of the first border in it, or -1."""
        known = len(self._head)  # it came before, and counts from there
        if known:
            data = self._head + data
        start, end, first, unpack = self._left, len(data), -1, _HEAD.unpack_from
        if 0 < start <= end and self._started and not self._block_open:
            first = start
        at = start
        while at + HEADER <= end:
            high, low, kind, flags = unpack(data, at)
            if kind in _NOTED:
                self._note(kind, flags, max(0, at - known))
            at += HEADER + (high << 8 | low)
            if first < 0 and at <= end and not self._block_open:
                first = at - known
        self._head = data[at:]
        self._left = max(0, at - end)
        self._started |= at > start
        return first

    def _note(self, kind: int, flags: int, at: int) -> None:
        """Remember what matters of a frame that begins *at* this place."""
        if kind in _BLOCKS:
            self.headers_seen = True
            self._block_open = not flags & END_HEADERS
        elif kind == GOAWAY_KIND and not self.goaway_seen:
            self.goaway_seen = True
            self.goaway_at = at
