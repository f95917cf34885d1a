"""Frames between PicoD and the runner; both ends load this very module.

Inside the sandbox it runs on Python 3.9 and newer and must load in no time: only
built-in imports, no `typing`. The words and rules stand in docs/reference/runner.md.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
HEADER = struct.Struct("!IBI")  # length of the payload, type, stream
MAX_PAYLOAD = 64 * 1024
CREDIT = 256 * 1024  # bytes a sender may be ahead on one stream
MAX_REQUEST = 4 * 1024 * 1024
MAX_STREAM = 2**32 - 1

HELLO = 1
REQUEST_PART = 2
REQUEST = 3
DATA = 4
END = 5
CANCEL = 6
WINDOW = 7
STARTED = 8
STDOUT = 9
STDERR = 10
INFO = 11
ENTRIES = 12
DONE = 13
ERROR = 14
RESULT = 15
RAISED = 16

TO_RUNNER = frozenset({HELLO, REQUEST_PART, REQUEST, DATA, END, CANCEL, WINDOW})
FROM_RUNNER = frozenset(
    {HELLO, DATA, WINDOW, STARTED, STDOUT, STDERR, INFO, ENTRIES, DONE, ERROR}
    | {RESULT, RAISED}
)
# Between the runner and an interpreter; the stream is the number of the call.
TO_INTERPRETER = frozenset({REQUEST_PART, REQUEST})
FROM_INTERPRETER = frozenset({STARTED, STDOUT, STDERR, RESULT, DATA, RAISED, DONE})
CREDITED = frozenset({DATA, STDOUT, STDERR, ENTRIES})

_WINDOW = struct.Struct("!I")


class ProtocolError(Exception):
    """The other end broke the protocol; the sandbox is over."""


def frame(kind: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """Encode one frame."""
    return b"".join((HEADER.pack(len(payload), kind, stream), payload))


def window(stream: int, count: int) -> bytes:
    """Encode the frame that allows *count* more bytes on *stream*."""
    return frame(WINDOW, stream, _WINDOW.pack(count))


def window_count(payload: bytes) -> int:
    """Read the payload of WINDOW."""
    return int(_WINDOW.unpack(payload)[0])


def check_header(length: int, kind: int, stream: int, allowed: frozenset[int]) -> None:
    """Refuse a frame by its header alone, before its payload has come.

    Raises:
        ProtocolError: it says what is wrong.
    """
    if kind not in allowed:
        raise ProtocolError(f"frame of type {kind} is not for this end")
    if length > MAX_PAYLOAD:
        raise ProtocolError(f"payload of {length} bytes, at most {MAX_PAYLOAD}")
    if (stream == 0) != (kind == HELLO):
        raise ProtocolError(f"frame of type {kind} on stream {stream}")
    if kind in CREDITED and length == 0:
        raise ProtocolError(f"empty frame of type {kind}")
    if kind == WINDOW and length != _WINDOW.size:
        raise ProtocolError(f"WINDOW of {length} bytes")
    if kind == CANCEL and length:
        raise ProtocolError(f"CANCEL of {length} bytes")


class Parser:
    """Cuts received bytes into frames; holds at most one unfinished frame.

    Args:
        allowed: the types that the other end may send.

    """

    def __init__(self, allowed: frozenset[int]) -> None:
        self._allowed = allowed
        self._rest = b""

    @property
    def unfinished(self) -> bool:
        """Whether the bytes so far end inside a frame."""
        return bool(self._rest)

    def check_whole(self) -> None:
        """Refuse bytes so far that end inside a frame.

        Raises:
            ProtocolError: they do.

        """
        if self._rest:
            raise ProtocolError("the packet ends inside a frame")

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[int, int, bytes]]:
        """Yield type, stream and payload of each frame that *data* completes.

        Raises:
            ProtocolError: the bytes are no such frame.

        """
        data = b"".join((self._rest, data)) if self._rest else bytes(data)
        self._rest = b""
        position, total = 0, len(data)
        while total - position >= HEADER.size:
            length, kind, stream = HEADER.unpack_from(data, position)
            check_header(length, kind, stream, self._allowed)
            start = position + HEADER.size
            if total - start < length:
                break
            position = start + length
            yield kind, stream, data[start:position]
        self._rest = data[position:]
