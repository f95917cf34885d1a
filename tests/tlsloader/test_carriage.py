"""What streams and calls may rely on, all the way through dialer and acceptor."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import psutil
import pytest

from tests.forge import Forge
from tests.tlsloader.posing import Ear, hang_up, posing
from tests.tlsloader.transport import (
    PICOD,
    ROUTER,
    STRANGER,
    RotatingSource,
    Way,
    hosted,
    mesh,
    settled,
    until,
    way,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH_LOOPS = True

FORGE = Forge()
CHUNK = bytes(65536)
Code = grpc.StatusCode


def streaming(out: Way, method: str) -> Any:
    opened: Any = out.channel
    return opened.stream_stream(f"/test.Service/{method}")(timeout=60)


async def test_answers_come_after_our_half_is_closed() -> None:
    """The request is over, its answer is not: the connection stays for it."""
    async with mesh() as one:
        stream = streaming(one.way, "Late")
        for _ in range(3):
            await stream.write(CHUNK)
        await stream.done_writing()
        await until(lambda: one.node.service.asked)
        assert one.node.service.asked == 3 * len(CHUNK)
        assert await one.way.call() == b"hello"
        one.node.service.go.set()
        assert [await stream.read() for _ in range(3)] == [b"0", b"1", b"2"]
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is Code.OK


async def test_an_answer_may_end_before_its_request() -> None:
    """The server has heard enough; other calls do not notice."""
    async with mesh() as one:
        stream = streaming(one.way, "Curt")
        assert await stream.read() == b"no"
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is Code.OK
        assert await one.way.call() == b"hello"


@pytest.mark.slow
async def test_who_is_not_read_is_held_back() -> None:
    """An upload without end stops where its reader stops, and memory stays flat."""
    async with mesh() as one:
        sent = 0
        before = psutil.Process().memory_info().rss
        opened: Any = one.way.channel
        upload = opened.stream_unary("/test.Service/Deaf")(timeout=60)

        async def pour() -> None:
            nonlocal sent
            while True:
                await upload.write(CHUNK)
                sent += 1

        pouring = asyncio.ensure_future(pour())
        await settled(lambda: sent)
        assert 0 < sent * len(CHUNK) < 8 << 20
        assert psutil.Process().memory_info().rss - before < 32 << 20
        assert await one.way.call() == b"hello"
        pouring.cancel()
        upload.cancel()


async def test_a_calls_own_deadline_ends_it_before_the_dials() -> None:
    """Who waits for a quarter of a second does not wait for five."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = "{}:{}".format(*mute.getsockname())
        async with way(FORGE.source(ROUTER), address) as out:
            loop = asyncio.get_running_loop()
            start = loop.time()
            opened: Any = out.channel
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await opened.unary_unary("/test.Service/Echo")(b"x", timeout=0.2)
            assert caught.value.code() is Code.DEADLINE_EXCEEDED
            assert loop.time() - start < 3
            # The dial goes on, for the next call
            assert len(out.dialer._inlet._tasks) == 1


@pytest.mark.slow
async def test_no_backoff_of_grpcs_own_delays_a_good_attempt() -> None:
    """A refused call is answered: to the channel that is no failure to connect."""
    source = RotatingSource(FORGE.material(STRANGER))
    async with (
        hosted(source) as node,
        way(FORGE.source(ROUTER), node.address) as out,
    ):
        states, healed = set(), list[float]()
        for generation in range(2, 12):
            for _ in range(3):
                await out.refusal()
                states.add(out.channel.get_state())
            source.publish(FORGE.material(PICOD, generation=generation))
            healed.append(await out.served())
            source.publish(FORGE.material(STRANGER, generation=generation))
            await out.refused(f"server is {STRANGER}")
        assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states
        # gRPC would wait for 100 ms and more, after each failure longer
        assert min(healed) < 0.1, healed


async def fails(out: Way) -> None:
    error = await out.refusal()
    assert error.code() is Code.UNAVAILABLE
    assert PICOD in str(error.details())  # whom we looked for


async def given_up(out: Way) -> None:
    calling = asyncio.ensure_future(out.call())
    await until(lambda: len(out.dialer._inlet._tasks))
    await out.channel.close()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def served(out: Way) -> None:
    await out.call()


@pytest.mark.slow
async def test_no_outcome_of_a_dial_leaves_a_descriptor() -> None:
    """Served, refused, silent, gone, somebody else, not TLS, given up: 20 of each."""
    ear = Ear()
    async with (
        hosted(FORGE.source(PICOD)) as good,
        hosted(FORGE.source(PICOD), allow=STRANGER) as refusing,
        posing(FORGE.svid(STRANGER), ear) as wrong,
        posing(Forge().svid(PICOD), ear) as forged,
        posing(FORGE.svid(PICOD), hang_up) as leaving,
        posing(None, ear) as plain,
    ):
        with socket.create_server(("127.0.0.1", 0)) as deaf, socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            mute = "{}:{}".format(*deaf.getsockname())
            gone = "{}:{}".format(*taken.getsockname())
            outcomes: dict[str, Callable[[Way], Any]] = {
                good.address: served,
                refusing.address: fails,
                wrong: fails,
                forged: fails,
                leaving: fails,
                plain: fails,
                gone: fails,
                mute: given_up,
            }
            await _dial_all(outcomes)  # what gRPC keeps for ever it has now
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            for _ in range(20):
                await _dial_all(outcomes)
            # Fewer than one for each: gRPC closes some of its own a little later
            await until(
                lambda: len(os.listdir("/proc/self/fd")) < before + 10  # noqa: PTH208
            )


async def _dial_all(outcomes: dict[str, Callable[[Way], Any]]) -> None:
    source = FORGE.source(ROUTER)
    for address, outcome in outcomes.items():
        async with way(source, address, connect_timeout=1.0) as out:
            await outcome(out)
