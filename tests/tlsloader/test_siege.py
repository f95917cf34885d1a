"""Peers that are proven, or nearly, and behave as badly as they can: real gRPC behind.

The others are served all the while, memory does not grow, and nothing breaks.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import psutil
import pytest

from tests.forge import Forge
from tests.tlsloader.posing import posing
from tests.tlsloader.raw import (
    DATA,
    GOAWAY,
    HEADERS,
    MORE,
    PING,
    PUSH,
    RST_STREAM,
    SETTINGS,
    RawClient,
    asking,
    literal,
    raw,
)
from tests.tlsloader.transport import (
    PICOD,
    PREFACE,
    ROUTER,
    STRANGER,
    Way,
    hosted,
    until,
    way,
)
from tlsloader._frames import END_HEADERS, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH_LOOPS = True

FORGE = Forge()
MIB = 1 << 20
NONSENSE = random.Random(7).randbytes(200_000)  # noqa: S311 -- the same each time


def resets() -> Iterator[bytes]:
    """Begin calls and take each back at once."""
    for number in range(3000):
        stream = 2 * number + 1
        yield frame(HEADERS, END_HEADERS, stream, asking("Wait"))
        yield frame(RST_STREAM, 0, stream, bytes((0, 0, 0, 8)))


def pings() -> Iterator[bytes]:
    """Ask for signs of life."""
    for number in range(20_000):
        yield frame(PING, 0, 0, number.to_bytes(8, "big"))


def settings() -> Iterator[bytes]:
    """Change the settings, which have to be acknowledged."""
    for _ in range(10_000):
        yield frame(SETTINGS, 0, 0, bytes((0, 3, 0, 0, 0, 100)))


def continuations() -> Iterator[bytes]:
    """Send a header block that does not end."""
    yield frame(HEADERS, 0, 1, asking("Echo"))
    for number in range(4000):
        yield frame(MORE, 0, 1, literal(f"x-{number}", "y" * 120) * 4)


def huge() -> Iterator[bytes]:
    """Announce a frame of sixteen megabytes, and send it."""
    yield b"\xff\xff\xff" + bytes((DATA, 0, 0, 0, 0, 1))
    for _ in range(255):
        yield bytes(65536)


def strangers() -> Iterator[bytes]:
    """Send frames of kinds that nobody knows, padded."""
    for kind in range(10, 255):
        yield frame(kind, 0xFF, kind, bytes(4000))


def garbage() -> Iterator[bytes]:
    """Send what is no HTTP/2 at all."""
    yield NONSENSE


def farewells() -> Iterator[bytes]:
    """Say good-bye, and go on calling."""
    yield frame(GOAWAY, 0, 0, bytes(8))
    for number in range(100):
        yield frame(HEADERS, END_HEADERS, 2 * number + 1, asking("Wait"))
        yield frame(GOAWAY, 0, 0, bytes((127, 255, 255, 255, 0, 0, 0, 0)))


SIEGES = [
    resets,
    pings,
    settings,
    continuations,
    huge,
    strangers,
    garbage,
    farewells,
]


async def pour(client: RawClient, frames: Iterator[bytes]) -> None:
    """Say all of *frames*, hearing nothing, until we are hung up on."""
    with suppress(ConnectionError):
        for number, each in enumerate(frames):
            client.say(each)
            await client.writer.drain()
            if number % 50 == 0:
                await asyncio.sleep(0)  # noqa: TID251 -- it is no other process


async def served(out: Way) -> None:
    """Call until it is served: soon, since the attacker is of this very process.

    With a thousand calls that wait for a handler gRPC begins to refuse others, by
    CANCELLED, whoever sent those.
    """
    async with asyncio.timeout(5):
        while True:
            with suppress(grpc.aio.AioRpcError):
                assert await out.call() == b"hello"
                return


@pytest.mark.slow
@pytest.mark.parametrize("siege", SIEGES)
async def test_a_proven_client_that_rages_harms_nobody_else(
    siege: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are served meanwhile, and all is as before once it has left."""
    async with (
        hosted(FORGE.source(PICOD)) as node,
        way(FORGE.source(ROUTER), node.address) as out,
    ):
        await out.call()
        before = psutil.Process().memory_info().rss
        async with raw(node.address, FORGE.svid(ROUTER)) as client:
            raging = asyncio.ensure_future(pour(client, siege()))
            while not raging.done():
                await served(out)
            await raging
        await until(lambda: node.acceptor.connections == 1)
        await until(lambda: node.service.running == 0)
        await served(out)
        assert psutil.Process().memory_info().rss - before < 64 * MIB
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize("siege", SIEGES)
async def test_who_is_not_admitted_is_not_even_heard(siege: Any) -> None:
    """What it says before it is judged, together with its handshake, is dropped."""
    async with hosted(FORGE.source(PICOD)) as node:
        with suppress(OSError):
            async with raw(node.address, FORGE.svid(STRANGER)) as client:
                await pour(client, siege())
                assert await client.ended() == []
        await until(lambda: node.acceptor.refusals)
        assert node.acceptor.refusals == {"not_admitted": 1}
        assert node.service.calls == 0
        assert node.acceptor.connections == 0


async def test_what_is_said_with_the_handshake_is_heard_afterwards() -> None:
    """An eager client that is admitted loses nothing."""
    async with (
        hosted(FORGE.source(PICOD)) as node,
        raw(node.address, FORGE.svid(ROUTER)) as client,
    ):
        streams = [client.call(data=bytes(1000)) for _ in range(50)]
        for stream in streams:
            assert (await client.heard(DATA, stream)).payload == bytes(
                (0, 0, 0, 3, 232)
            ) + bytes(1000)


def pushes() -> Iterator[bytes]:
    """Offer what nobody asked for."""
    for number in range(100):
        promised = (2 * number + 2).to_bytes(4, "big")
        yield frame(PUSH, END_HEADERS, 1, promised + asking("Echo"))


def endings() -> Iterator[bytes]:
    """Refuse every stream, by name and together."""
    for number in range(100):
        yield frame(RST_STREAM, 0, 2 * number + 1, bytes((0, 0, 0, 7)))
        yield frame(GOAWAY, 0, 0, bytes(8))


@pytest.mark.slow
@pytest.mark.parametrize("siege", [*SIEGES, pushes, endings])
async def test_a_proven_server_that_rages_harms_nobody_else(
    siege: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The call to it fails, or is given up; another channel does not notice."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0))
        with suppress(OSError):
            heard = b""
            while len(heard) <= len(PREFACE):
                heard += await reader.read(65536)
            for each in siege():
                writer.write(each)
                await writer.drain()
            while await reader.read(65536):
                pass
        writer.transport.abort()

    source = FORGE.source(ROUTER)
    async with (
        hosted(FORGE.source(PICOD)) as node,
        posing(FORGE.svid(PICOD), speak) as address,
        way(source, address) as bad,
        way(source, node.address) as good,
    ):
        await good.call()
        before = psutil.Process().memory_info().rss
        opened: Any = bad.channel
        raging = opened.unary_unary("/test.Service/Echo")(b"x", timeout=1.5)
        while not raging.done():
            await served(good)
        with pytest.raises(grpc.aio.AioRpcError):
            await raging
        assert psutil.Process().memory_info().rss - before < 64 * MIB
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
