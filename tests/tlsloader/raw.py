"""A client that says whatever it is told to, frame by frame, over TLS."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from tests.tlsloader.transport import tls
from tlsloader._frames import END_HEADERS, HEADER, PREFACE, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.forge import Svid

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW, MORE = range(
    10
)
END_STREAM = ACK = 1


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def literal(name: str, value: str) -> bytes:
    """Encode a short header that enters no table. Source: RFC 7541, section 6.2.2."""
    parts = (each.encode() for each in (name, value))
    return b"\0" + b"".join(bytes((len(part),)) + part for part in parts)


def asking(method: str) -> bytes:
    """Make the header block of a gRPC call to the test service."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/test.Service/{method}",
        ":authority": "x",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return b"".join(literal(name, value) for name, value in headers.items())


def message(data: bytes) -> bytes:
    """Wrap one message as gRPC does. Source: gRPC over HTTP/2, Length-Prefixed."""
    return b"\0" + len(data).to_bytes(4, "big") + data


class RawClient:
    """A connection on which nothing is said by itself, but for the preface."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader, self.writer = reader, writer
        self._stream = -1

    def say(self, *frames: bytes) -> None:
        """Send *frames* as they are."""
        self.writer.write(b"".join(frames))

    def call(self, method: str = "Echo", data: bytes = b"hello") -> int:
        """Begin a unary call; return its stream."""
        self._stream += 2
        self.say(
            frame(HEADERS, END_HEADERS, self._stream, asking(method)),
            frame(DATA, END_STREAM, self._stream, message(data)),
        )
        return self._stream

    async def hear(self) -> Frame:
        """Return the next frame.

        Raises:
            EOFError: the connection has ended.
        """
        head = await self.reader.readexactly(HEADER)
        payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        return Frame(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)

    async def heard(self, kind: int, stream: int = 0) -> Frame:
        """Return the next frame of *kind* on *stream*; acknowledge SETTINGS."""
        async with asyncio.timeout(10):
            while True:
                each = await self.hear()
                if each.kind == SETTINGS and not each.flags & ACK:
                    self.say(frame(SETTINGS, ACK, 0))
                if (each.kind, each.stream) == (kind, stream):
                    return each

    async def ended(self) -> list[Frame]:
        """Return all that is said until the connection ends."""
        frames = []
        try:
            async with asyncio.timeout(10):
                while True:
                    frames.append(await self.hear())
        except (EOFError, ConnectionError):
            return frames


@asynccontextmanager
async def raw(address: str, svid: Svid, version: str = "") -> AsyncIterator[RawClient]:
    """Connect to the door at *address* as *svid*, and say the preface."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=tls(svid, version), server_hostname="x"
    )
    client = RawClient(reader, writer)
    try:
        client.say(PREFACE, frame(SETTINGS, 0, 0))
        yield client
    finally:
        writer.transport.abort()
