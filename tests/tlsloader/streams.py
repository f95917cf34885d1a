"""HTTP/2 as hostile as it can be said, for hypothesis, and ends that hold it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tlsloader._frames import END_HEADERS, HEADER, frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlsloader._end import End

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, CONTINUATION = (
    *(0, 1, 3, 4, 5, 6, 7, 9),
)
PADDED = 0x8

Unit = list[bytes]
"""Frames that nothing may come between."""

_STREAMS = st.integers(0, 2**31 - 1)


def _padded(kind: int, flags: int, stream: int, data: bytes, pad: int) -> Unit:
    payload = bytes((pad,)) + data + bytes(pad)
    return [frame(kind, flags | PADDED, stream, payload)]


PLAIN = st.builds(
    lambda *parts: [frame(*parts)],
    st.integers(0, 255).filter(
        lambda kind: kind not in {HEADERS, PUSH, CONTINUATION, GOAWAY}
    ),
    st.integers(0, 255),
    _STREAMS,
    st.binary(max_size=300),
)
PAD = st.builds(
    _padded,
    st.just(DATA),
    st.integers(0, 255),
    _STREAMS,
    st.binary(max_size=40),
    st.integers(0, 255),
)
LARGE = st.builds(
    lambda stream, size: [frame(DATA, 0, stream, b"x" * size)],
    _STREAMS,
    st.sampled_from((16384, 16385, 70000)),
)


@st.composite
def block(draw: st.DrawFn) -> Unit:
    """Make one header block, of one frame or with a run of CONTINUATION."""
    pieces = draw(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
    kinds = [draw(st.sampled_from((HEADERS, PUSH)))]
    kinds += [CONTINUATION] * (len(pieces) - 1)
    flags = draw(st.integers(0, 255)) & ~END_HEADERS
    last = len(pieces) - 1
    return [
        frame(kind, flags | (END_HEADERS if index == last else 0), 1, piece)
        for index, (kind, piece) in enumerate(zip(kinds, pieces, strict=True))
    ]


UNITS = st.lists(PLAIN | PAD | LARGE | block(), min_size=1, max_size=8)


def joined(units: Sequence[Unit]) -> bytes:
    return b"".join(piece for unit in units for piece in unit)


def borders(units: Sequence[Unit]) -> set[int]:
    """Return the offsets at which a frame may be put."""
    found, at = set(), 0
    for unit in units:
        at += sum(map(len, unit))
        found.add(at)
    return found


@st.composite
def pieces_of(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """Split *stream* anywhere."""
    cuts = draw(st.lists(st.integers(0, len(stream)), max_size=12))
    bounds = sorted({0, *cuts, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(bounds)]


def frames_in(said: bytes) -> list[tuple[int, int, int, bytes]]:
    """Take *said* apart; it must be whole frames."""
    found, at = [], 0
    while at < len(said):
        size = int.from_bytes(said[at : at + 3], "big")
        end = at + HEADER + size
        assert end <= len(said), "ends inside a frame"
        stream = int.from_bytes(said[at + 5 : at + 9], "big")
        found.append((said[at + 3], said[at + 4], stream, said[at + HEADER : end]))
        at = end
    return found


class Wire:
    """A transport that keeps what it is told; no socket, no loop."""

    def __init__(self, end: End) -> None:
        self.written = bytearray()
        self.paused = False
        self.gone = False
        self.end = end
        transport: Any = self
        end.connection_made(transport)

    @property
    def said(self) -> bytes:
        """All that was written."""
        return bytes(self.written)

    def write(self, data: bytes) -> None:
        assert not self.gone
        self.written += data

    def is_closing(self) -> bool:
        return self.gone

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            self.end.connection_lost(None)
