"""The way to a server: proven before any call flows, and clear when it fails."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.fakes import FakeClock
from tests.forge import Forge
from tests.tlsloader.posing import Ear, hang_up, posing
from tests.tlsloader.transport import (
    PICOD,
    PREFACE,
    ROUTER,
    STRANGER,
    RotatingSource,
    hosted,
    mesh,
    until,
    way,
)
from tlsloader import Dialer, SpiffeID
from tlsloader._frames import GOAWAY, frame

if TYPE_CHECKING:
    from pathlib import Path

    from tlsloader import Peer

BOTH_LOOPS = True

FORGE = Forge()
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def failures(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(each) for each in caplog.records if each.message == "dial failed"]


async def test_says_which_server_is_there_and_which_was_expected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A valid server with the wrong identity is told to the caller by both names."""
    caplog.set_level(logging.INFO)
    async with (
        hosted(FORGE.source(STRANGER)) as node,
        way(FORGE.source(ROUTER), node.address) as out,
    ):
        error = await out.refusal()
        assert error.code() is UNAVAILABLE
        assert error.details() == f"server is {STRANGER}, expected {PICOD}"
        assert node.service.calls == 0
    record = failures(caplog)[0]
    assert (record["reason"], record["presented"]) == ("not_admitted", STRANGER)
    assert record["expected"] == PICOD


async def test_tells_whom_it_proved(caplog: pytest.LogCaptureFixture) -> None:
    """Both ends log the leaf they showed and the one they saw, crosswise the same."""
    caplog.set_level(logging.INFO)
    seen: list[Peer] = []
    async with (
        hosted(FORGE.source(PICOD)) as node,
        way(FORGE.source(ROUTER), node.address, on_connected=seen.append) as out,
    ):
        await out.call()
    assert [str(peer.id) for peer in seen] == [PICOD]
    by = {each.message: vars(each) for each in caplog.records}
    proven, admitted = by["peer proven"], by["peer admitted"]
    assert proven["peer_leaf_sha256"] == admitted["own_leaf_sha256"]
    assert admitted["peer_leaf_sha256"] == proven["own_leaf_sha256"]
    assert (proven["peer_id"], admitted["peer_id"]) == (PICOD, ROUTER)
    assert proven["address"] == node.address


async def test_heals_soon_after_its_cause_is_gone() -> None:
    """No back-off of gRPC's own: about 0.1 s after, calls are served again."""
    source = RotatingSource(FORGE.material(STRANGER))
    async with (
        hosted(source) as node,
        way(FORGE.source(ROUTER), node.address) as out,
    ):
        for _ in range(5):
            assert (await out.refusal()).code() is UNAVAILABLE
        source.publish(FORGE.material(PICOD, generation=2))
        assert await out.served() < 0.5


async def test_many_waiting_calls_cost_one_dial(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each gets the reason, for one attempt."""
    async with (
        hosted(FORGE.source(STRANGER)) as node,
        way(FORGE.source(ROUTER), node.address) as out,
    ):
        errors = await asyncio.gather(*(out.refusal() for _ in range(50)))
    assert {error.details() for error in errors} == {
        f"server is {STRANGER}, expected {PICOD}"
    }
    assert len(failures(caplog)) == 1


async def test_streams_are_refused_like_calls() -> None:
    """Also a stream that has not ended its side gets code and text."""
    async with (
        hosted(FORGE.source(STRANGER)) as node,
        way(FORGE.source(ROUTER), node.address) as out,
    ):
        stream = out.both()
        assert await stream.code() is UNAVAILABLE
        assert await stream.details() == f"server is {STRANGER}, expected {PICOD}"


async def test_a_server_that_refuses_us_is_not_a_good_dial() -> None:
    """With TLS 1.3 our handshake succeeds before the server judged us."""
    async with (
        hosted(FORGE.source(PICOD), allow=STRANGER) as node,
        way(FORGE.source(ROUTER), node.address) as out,
    ):
        error = await out.refusal()
        assert error.code() is UNAVAILABLE
        assert f"most likely refuses us, {ROUTER}" in (error.details() or "")


async def test_a_server_that_hangs_up_is_said_so() -> None:
    """An end after the handshake is no connection."""
    async with (
        posing(FORGE.svid(PICOD), hang_up) as address,
        way(FORGE.source(ROUTER), address) as out,
    ):
        assert "right after the handshake" in str((await out.refusal()).details())


@pytest.mark.parametrize("kind", ["port", "path"])
async def test_an_address_where_nobody_listens(kind: str, tmp_path: Path) -> None:
    """The caller reads the address and the reason, at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if kind == "path":
            address = f"unix:{tmp_path / 'gone.sock'}"
        async with way(FORGE.source(ROUTER), address) as out:
            error = await out.refusal()
    assert error.code() is UNAVAILABLE
    assert f"cannot connect to {address}" in (error.details() or "")


async def test_a_server_that_does_not_speak_tls() -> None:
    """Plain HTTP/2 is no server of ours."""
    ear = Ear()
    async with (
        posing(None, ear) as address,
        way(FORGE.source(ROUTER), address) as out,
    ):
        error = await out.refusal()
        assert f"TLS handshake with {address} failed" in (error.details() or "")
        assert b"PRI" not in ear.heard


async def test_a_silent_server_is_given_up_in_time() -> None:
    """The dial is bounded, and the caller reads by what."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        async with way(FORGE.source(ROUTER), address, connect_timeout=0.1) as out:
            error = await out.refusal()
    assert error.code() is UNAVAILABLE
    assert "within 0.1 s" in (error.details() or "")


@pytest.mark.slow
async def test_a_slow_dial_is_waited_for() -> None:
    """An attempt of the channel lasts as long as the dialer needs."""
    late = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await late.wait()
        await Ear()(reader, writer)

    async with (
        posing(FORGE.svid(PICOD), speak) as address,
        way(FORGE.source(ROUTER), address) as out,
    ):
        waiting = asyncio.ensure_future(out.call())
        asyncio.get_running_loop().call_later(1.0, late.set)
        await until(lambda: out.dialer.connections == 1)
        assert not waiting.done()
        waiting.cancel()


async def test_a_server_that_leaves_at_once_still_gets_the_call() -> None:
    """Its GOAWAY comes with its SETTINGS: gRPC alone would wait on it for ever."""
    ear = Ear(frame(4, 0, 0) + GOAWAY)
    async with (
        posing(FORGE.svid(PICOD), ear) as address,
        way(FORGE.source(ROUTER), address) as out,
    ):
        calling = asyncio.ensure_future(out.call())
        await until(lambda: b"/test.Service/Echo" in ear.heard)
        calling.cancel()


async def test_a_killed_server_ends_calls_and_a_new_one_is_found(
    tmp_path: Path,
) -> None:
    """UNAVAILABLE at once, and the same channel reaches the next server."""
    listen = f"unix:{tmp_path / 'picod.sock'}"
    async with way(FORGE.source(ROUTER), listen) as out:
        async with hosted(FORGE.source(PICOD), listen=listen):
            stream = out.both()
            await stream.write(b"x")
            assert await stream.read() == b"x"
        assert await stream.code() is UNAVAILABLE
        assert (await out.refusal()).code() is UNAVAILABLE
        async with hosted(FORGE.source(PICOD), listen=listen):
            await out.served(within=2)


async def test_a_call_given_up_while_dialling_leaves_nothing() -> None:
    """The channel hangs up: the dial ends too."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        async with way(FORGE.source(ROUTER), address) as out:
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(private_path(out.dialer))
                caller.sendall(PREFACE)
                await until(lambda: len(out.dialer._inlet._tasks) == 1)
            await until(lambda: not out.dialer._inlet._tasks, 2)


@pytest.mark.slow
async def test_another_process_is_turned_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The private socket is for our own channel; the kernel says who comes."""
    code = (
        "import grpc,sys\n"
        "with grpc.insecure_channel(sys.argv[1]) as channel:\n"
        "    try: channel.unary_unary('/test.Service/Echo')(b'x', timeout=10)\n"
        "    except grpc.RpcError as e: print(e.code().name, e.details())\n"
    )
    async with mesh() as one:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            f"unix:{private_path(one.way.dialer)}",
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await child.communicate()
        own = os.getpid()
        assert said.decode() == (
            f"UNAVAILABLE this channel is that of process {own}: open one of your own\n"
        )
        assert one.node.acceptor.connections == 0
    (record,) = (vars(each) for each in caplog.records if each.levelname == "ERROR")
    assert (record["reason"], record["pid"]) == ("other_process", child.pid)


def private_path(dialer: Dialer) -> str:
    assert dialer._inlet._folder is not None
    path = dialer._inlet._folder.path / "dial"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    return str(path)


async def test_our_own_end_is_said_so() -> None:
    """With an identity that expired we do not even try."""
    clock = FakeClock()
    forge = Forge(now=clock.now())
    async with (
        hosted(forge.source(PICOD), clock=clock) as node,
        way(forge.source(ROUTER), node.address, clock=clock) as out,
    ):
        clock.jump(3601)
        details = (await out.refusal()).details()
    assert details is not None
    assert f"our own identity {ROUTER} expired" in details


async def test_a_closed_way_leaves_no_file() -> None:
    """The private folder goes with the dialer."""
    dialer = Dialer(
        FORGE.source(ROUTER),
        expected=SpiffeID.parse(PICOD),
        address="127.0.0.1:1",
    )
    await dialer.start()
    folder = os.path.dirname(private_path(dialer))  # noqa: PTH120
    assert os.listdir(folder) == ["dial"]  # noqa: PTH208
    await dialer.aclose()
    assert not os.path.exists(folder)  # noqa: ASYNC240, PTH110


async def test_drain_lets_calls_end_and_begins_none() -> None:
    """A stream that runs is finished; a call after that is refused."""
    async with mesh() as one:
        stream = one.way.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        draining = asyncio.ensure_future(one.way.dialer.drain(10))
        await one.way.refused("being closed")
        await stream.write(b"y")
        assert await stream.read() == b"y"
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        # gRPC keeps the connection of a call that somebody still refers to
        del stream
        await draining
        assert one.way.dialer.connections == 0


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", "host:x", "host:65536", "unix:", "unix:rel", ":-1", "h:٣"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match=r"host:port|absolute|65535"):
        Dialer(FORGE.source(ROUTER), expected=SpiffeID.parse(PICOD), address=address)
