"""Bytes pass between two connections, in order, held back, and to the last one."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.tlsloader.transport import mesh, settled, until
from tlsloader._end import End
from tlsloader._frames import GOAWAY, PREFACE, frame
from tlsloader._relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOTH_LOOPS = True

SETTINGS = frame(4, 0, 0)


class Far:
    """The far sides of a relay: what the server and the client hold in hand."""

    def __init__(
        self, relay: Relay, server: socket.socket, client: socket.socket
    ) -> None:
        self.relay = relay
        self.server = server
        self.client = client

    async def send(self, data: bytes) -> None:
        """Have the server send *data*."""
        await asyncio.get_running_loop().sock_sendall(self.server, data)

    async def begin(self) -> None:
        """Have the client begin its first call."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.client, PREFACE)
        await loop.sock_sendall(self.client, SETTINGS + frame(1, 4, 1, b"call"))
        got, size = b"", len(PREFACE) + len(SETTINGS) + 13
        async with asyncio.timeout(5):
            while len(got) < size:
                got += await loop.sock_recv(self.server, size)

    async def read(self, size: int) -> bytes:
        """Return exactly *size* bytes that reached the client."""
        loop, got = asyncio.get_running_loop(), bytearray()
        async with asyncio.timeout(5):
            while len(got) < size:
                more = await loop.sock_recv(self.client, size - len(got))
                assert more, f"ended after {len(got)} bytes"
                got += more
        return bytes(got)


async def _end(near: socket.socket) -> End:
    end = End()
    await asyncio.get_running_loop().connect_accepted_socket(lambda: end, near)
    return end


@asynccontextmanager
async def relayed(early: bytes = b"") -> AsyncIterator[Far]:
    """Join two socket pairs; the server has sent *early* before."""
    pairs = socket.socketpair(), socket.socketpair()
    for each in (*pairs[0], *pairs[1]):
        each.setblocking(False)  # noqa: FBT003
    (server, near_server), (client, near_client) = pairs
    server.send(early) if early else None
    relay = Relay(server=await _end(near_server), client=await _end(near_client))
    if early:
        async with asyncio.timeout(5):
            assert await relay._server.heard
    relay.start()
    try:
        yield Far(relay, server, client)
    finally:
        relay.abort()
        await relay.wait_closed()
        server.close()
        client.close()


async def test_the_first_bytes_are_kept() -> None:
    """What came before the relay stood is delivered first."""
    async with relayed(early=SETTINGS + b"abc") as far:
        await far.send(b"def")
        assert await far.read(15) == SETTINGS + b"abcdef"


async def test_goaway_comes_at_once_between_frames() -> None:
    """On an idle connection it does not wait for the next frame."""
    async with relayed() as far:
        await far.send(SETTINGS)
        assert await far.read(9) == SETTINGS
        await far.begin()
        far.relay.goaway()
        far.relay.goaway()
        await far.send(frame(6, 0, 0, b"pingpong"))
        assert await far.read(17) == GOAWAY
        assert await far.read(17) == frame(6, 0, 0, b"pingpong")


async def test_goaway_waits_for_the_end_of_a_frame() -> None:
    """It is put behind the frame that is under way, never into it."""
    data = frame(0, 0, 1, b"x" * 100)
    async with relayed() as far:
        await far.begin()
        await far.send(SETTINGS + data[:50])
        assert await far.read(59) == SETTINGS + data[:50]
        far.relay.goaway()
        await far.send(data[50:] + data)
        expected = data[50:] + GOAWAY + data
        assert await far.read(len(expected)) == expected


async def test_goaway_is_never_the_first_frame() -> None:
    """The first is the server's SETTINGS. Source: RFC 9113, section 3.4."""
    async with relayed() as far:
        await far.begin()
        far.relay.goaway()
        await far.send(SETTINGS)
        assert await far.read(9 + len(GOAWAY)) == SETTINGS + GOAWAY


async def test_goaway_waits_for_the_clients_first_call() -> None:
    """A channel overlooks one that comes with the first SETTINGS, and hangs on it."""
    async with relayed() as far:
        far.relay.goaway()
        await far.send(SETTINGS + SETTINGS)
        assert await far.read(18) == SETTINGS + SETTINGS
        await far.begin()
        assert await far.read(17) == GOAWAY


@pytest.mark.slow
async def test_goaway_waits_no_longer_than_a_second() -> None:
    """A client that never calls is asked to leave as well."""
    async with relayed() as far:
        far.relay.goaway()
        await far.send(SETTINGS)
        assert await far.read(9 + 17) == SETTINGS + GOAWAY


@pytest.mark.parametrize("half", [True, False], ids=["half-closed", "closed"])
async def test_the_last_bytes_arrive_before_the_end(*, half: bool) -> None:
    """A server that sends and leaves is heard to its end, which is the client's too."""
    size = 3 << 20
    async with relayed() as far:
        sending = asyncio.ensure_future(far.send(bytes(size)))
        got = await far.read(1 << 20)
        reading = asyncio.ensure_future(far.read(size - len(got)))
        await sending
        if half:
            far.server.shutdown(socket.SHUT_WR)
        else:
            far.server.close()
        assert len(await reading) == size - len(got)
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(far.client, 1) == b""


async def test_a_client_that_leaves_ends_the_server_side() -> None:
    """Half-open connections do not stay."""
    async with relayed() as far:
        far.client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(5):
            assert await asyncio.get_running_loop().sock_recv(far.server, 1) == b""
            await far.relay.wait_closed()


@pytest.mark.slow
async def test_a_client_that_leaves_without_reading_is_cut_off() -> None:
    """The last bytes get a bounded time."""
    async with relayed() as far:
        sending = asyncio.ensure_future(far.send(bytes(8 << 20)))
        await until(lambda: far.relay._client.full)
        far.relay.close()
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionError):
                await sending
            await far.relay.wait_closed()


@pytest.mark.slow
async def test_who_does_not_read_holds_the_sender_back() -> None:
    """Only buffers of a fixed size fill: no byte is read that cannot be passed on."""
    async with relayed() as far:
        size = 8 << 20
        sending = asyncio.ensure_future(far.send(bytes(size)))
        await until(lambda: far.relay._client.full)
        held = far.relay._client.transport.get_write_buffer_size
        await settled(held)
        assert held() < 1 << 20
        assert not sending.done()
        assert len(await far.read(size)) == size
        await sending


@pytest.mark.slow
async def test_a_server_that_does_not_read_holds_the_client_back() -> None:
    """The same the other way round, whatever HTTP/2 would have allowed it."""
    async with relayed() as far:
        loop, size, got = asyncio.get_running_loop(), 8 << 20, 0
        sending = asyncio.ensure_future(loop.sock_sendall(far.client, bytes(size)))
        await until(lambda: far.relay._server.full)
        held = far.relay._server.transport.get_write_buffer_size
        await settled(held)
        assert held() < 1 << 20
        assert not sending.done()
        async with asyncio.timeout(5):
            while got < size:
                got += len(await loop.sock_recv(far.server, size))
        await sending


@pytest.mark.slow
async def test_an_idle_reader_keeps_memory_flat() -> None:
    """Through both TLS ends a stream without end stops where its reader stops."""
    async with mesh() as one:
        service = one.node.service
        before = psutil.Process().memory_info().rss
        stream = one.way.down(0)
        assert await stream.read() == bytes(65536)
        await settled(lambda: service.sent)
        assert service.sent * 65536 < 8 << 20
        assert psutil.Process().memory_info().rss - before < 32 << 20
        assert await one.way.call() == b"hello"
        stream.cancel()
        await until(service.ended.is_set)
