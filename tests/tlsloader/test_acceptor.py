"""The TLS end in front of a gRPC server lets in whom it should, and nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.fakes import FakeClock
from tests.forge import Forge
from tests.tlsloader.transport import (
    PICOD,
    PREFACE,
    ROUTER,
    SETTINGS,
    STRANGER,
    RotatingSource,
    call,
    hosted,
    knock,
    mesh,
    tls,
    until,
    way,
)
from tlsloader import (
    Acceptor,
    Allowlist,
    FixedSource,
    ListenError,
    PeerRefusedError,
    UnixAcceptor,
)
from tlsloader._frames import GOAWAY, frame

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator


BOTH_LOOPS = True
FORGE = Forge()


def refusals(caplog: pytest.LogCaptureFixture) -> Iterator[logging.LogRecord]:
    return (each for each in caplog.records if each.message == "peer refused")


async def test_lets_a_proven_peer_in_and_tells_who_it_is() -> None:
    """The handler sees the identity that the client proved."""
    async with mesh() as one:
        assert await one.way.call("Caller") == ROUTER.encode()
        assert one.node.acceptor.connections == 1


@pytest.mark.parametrize(
    ("context", "say", "reason"),
    [
        (tls(), PREFACE, "no_certificate"),
        (None, PREFACE, "not_tls"),
        (None, b"GET / HTTP/1.1\r\n\r\n", "not_tls"),
        (None, b"\x16\x03\x01\x00\x04oops", "handshake_failed"),
    ],
    ids=["no certificate", "plain HTTP/2", "HTTP/1", "garbage"],
)
async def test_refuses_who_shows_no_certificate(
    context: object, say: bytes, reason: str
) -> None:
    """Without a client certificate, or without TLS, nothing is served."""
    async with hosted(FORGE.source(PICOD)) as node:
        assert SETTINGS not in (await knock(node.address, context, say))[3:4]  # type: ignore[arg-type]
        await until(lambda: node.acceptor.refusals)
        assert set(node.acceptor.refusals) == {reason}
        assert node.service.calls == 0


async def test_refuses_a_valid_identity_that_is_not_on_the_list(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The chain is fine; the allowlist says no, and the log says to whom."""
    async with hosted(FORGE.source(PICOD)) as node:
        assert await knock(node.address, tls(FORGE.svid(STRANGER))) == b""
        await until(lambda: node.acceptor.refusals)
        assert node.acceptor.refusals == {"not_admitted": 1}
    (record,) = refusals(caplog)
    assert vars(record)["peer_id"] == STRANGER


async def test_an_empty_list_admits_nobody() -> None:
    """No rule is no permission."""
    source = FORGE.source(PICOD)
    acceptor = Acceptor(source, allow=Allowlist())
    try:
        address = await acceptor.start("127.0.0.1:0")
        assert await knock(address, tls(FORGE.svid(ROUTER))) == b""
        await until(lambda: acceptor.refusals)
    finally:
        await acceptor.aclose()


async def test_a_peer_that_does_not_speak_http2_is_refused() -> None:
    """ALPN must settle on h2."""
    context = tls(FORGE.svid(ROUTER))
    context.set_alpn_protocols(["http/1.1"])
    async with hosted(FORGE.source(PICOD)) as node:
        assert await knock(node.address, context) == b""
        await until(lambda: node.acceptor.refusals)
        assert not node.service.calls


async def test_an_optional_certificate_may_be_missing_but_not_bad() -> None:
    """The front door knows callers without a certificate; a bad one is no way in."""
    source = FORGE.source(PICOD)
    async with hosted(source, client_certificate="optional") as node:
        assert (await knock(node.address, tls()))[3] == SETTINGS
        assert (await knock(node.address, tls(FORGE.svid(ROUTER))))[3] == SETTINGS
        assert await knock(node.address, tls(FORGE.svid(STRANGER))) == b""
        assert await knock(node.address, tls(Forge().svid(ROUTER))) == b""
        await until(lambda: node.acceptor.refusals.total() == 2)


async def test_all_who_wait_are_taken_in_together() -> None:
    """One for each turn of a busy loop would keep the last waiting for long."""
    async with hosted(FORGE.source(PICOD)) as node:
        host, _, port = node.address.rpartition(":")
        crowd = [socket.create_connection((host, int(port))) for _ in range(200)]
        turns = 0
        while len(node.acceptor._tasks) < len(crowd):
            await asyncio.sleep(0)  # noqa: TID251 -- one turn of the loop
            turns += 1
        assert turns < 50
        for each in crowd:
            each.close()


@pytest.mark.slow
async def test_serves_200_handshakes_at_once() -> None:
    """All are let in, a few at a time."""
    context = tls(FORGE.svid(ROUTER))
    async with hosted(FORGE.source(PICOD), handshake_timeout=60) as node:
        answers = await asyncio.gather(
            *(knock(node.address, context) for _ in range(200))
        )
        assert all(answer[3:4] == bytes((SETTINGS,)) for answer in answers)
        assert not node.acceptor.refusals


@pytest.mark.slow
@pytest.mark.parametrize("word", [b"", b"\x16\x03\x01"], ids=["silent", "half a word"])
async def test_200_silent_clients_keep_no_good_one_out(word: bytes) -> None:
    """They hold neither all the handshakes nor the whole door."""
    async with hosted(
        FORGE.source(PICOD), max_connections=150, handshake_timeout=60
    ) as node:
        host, _, port = node.address.rpartition(":")
        silent = []
        for _ in range(200):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(word)
            silent.append(connection)
        try:
            async with way(FORGE.source(ROUTER), node.address) as out:
                assert await out.call() == b"hello"
            await until(lambda: node.acceptor.refusals["displaced"] >= 50)
        finally:
            for connection in silent:
                connection.close()


async def test_a_silent_client_is_turned_away_in_time() -> None:
    """Who proves nothing within the bound is gone."""
    async with hosted(FORGE.source(PICOD), handshake_timeout=0.1) as node:
        assert await knock(node.address, None, b"") == b""
        await until(lambda: node.acceptor.refusals["handshake_timeout"] == 1)
        assert await knock(node.address, None, b"\x16\x03\x01") == b""
        await until(lambda: node.acceptor.refusals["handshake_timeout"] == 2)


async def test_a_full_door_takes_nobody_in() -> None:
    """Proven connections are not displaced by newcomers."""
    async with mesh(max_connections=1) as one:
        acceptor = one.node.acceptor
        await one.way.call()
        assert await knock(one.node.address, tls(one.forge.svid(ROUTER))) == b""
        assert acceptor.refusals == {"too_many_connections": 1}
        assert await one.way.call() == b"hello"


async def test_an_unknown_connection_has_no_peer() -> None:
    """Who reaches the server past the door is nobody."""
    async with hosted(FORGE.source(PICOD)) as node:
        for name in ("unix:", "unix-abstract:", "unix-abstract:0123", "ipv4:1.2.3.4:5"):
            with pytest.raises(PeerRefusedError) as caught:
                node.acceptor.peer(name)
            assert caught.value.reason == "unknown_connection"
        async with grpc.aio.insecure_channel(node.acceptor.backend) as direct:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(direct)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert refused.value.details() == "denied"
        assert node.service.calls == 0


def test_the_private_folder_is_ours_alone_and_its_path_short() -> None:
    """Mode 0700, and short enough for gRPC's 107 bytes."""
    door = UnixAcceptor(name="control")
    path = Path(door.backend.removeprefix("unix:"))
    try:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(path)) < 100
    finally:
        asyncio.run(door.aclose())
    assert not path.parent.exists()


async def test_each_call_is_judged_by_the_clock() -> None:
    """A leaf that ended refuses new calls on a connection that is still open."""
    clock = FakeClock()
    forge = Forge(now=clock.now())
    source, mine = forge.source(PICOD), forge.source(ROUTER)
    async with (
        hosted(source, clock=clock) as node,
        way(mine, node.address, clock=clock) as out,
    ):
        assert await out.call() == b"hello"
        clock.jump(3601)
        error = await out.refusal()
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error.details() == "denied"
        assert node.service.calls == 1


async def test_our_own_end_closes_the_door() -> None:
    """With an identity that expired we prove ourselves to nobody."""
    clock = FakeClock()
    forge = Forge(now=clock.now())
    async with hosted(forge.source(PICOD), clock=clock) as node:
        clock.jump(3601)
        assert await knock(node.address, tls(forge.svid(ROUTER))) == b""
        await until(lambda: node.acceptor.refusals)
        assert node.acceptor.refusals == {"own_identity_expired": 1}


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    """Two services on one port: the second fails, it takes no calls."""
    async with hosted(FORGE.source(PICOD)) as node:
        second = Acceptor(FORGE.source(PICOD), allow=Allowlist.parse(ROUTER))
        try:
            with pytest.raises(ListenError, match=node.address) as caught:
                await second.start(node.address)
            assert caught.value.reason == "address_in_use"
        finally:
            await second.aclose()


async def test_a_unix_path_works_like_a_port(tmp_path: Path) -> None:
    """TLS over a Unix socket; the file is gone afterwards."""
    path = tmp_path / "data.sock"
    async with hosted(FORGE.source(PICOD), listen=f"unix:{path}") as node:
        assert node.address == f"unix:{path}"
        async with way(FORGE.source(ROUTER), node.address) as out:
            assert await out.call("Caller") == ROUTER.encode()
    assert not path.exists()


async def test_a_socket_file_is_replaced_only_when_nobody_listens(
    tmp_path: Path,
) -> None:
    """What a killed service left behind does not keep the next one from starting."""
    path = tmp_path / "data.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with hosted(FORGE.source(PICOD), listen=f"unix:{path}"):
        second = UnixAcceptor(name="second")
        try:
            with pytest.raises(ListenError, match=str(path)):
                await second.start(f"unix:{path}")
        finally:
            await second.aclose()
    assert not path.exists()


@pytest.mark.parametrize("listen", ["[::1]:0", "localhost:0", "127.0.0.1:0"])
async def test_hosts_are_written_as_users_do(listen: str) -> None:
    """The address that comes back has the real port and can be dialled."""
    try:
        async with (
            hosted(FORGE.source(PICOD), listen=listen) as node,
            way(FORGE.source(ROUTER), node.address) as out,
        ):
            assert not node.address.endswith(":0")
            assert await out.call() == b"hello"
    except ListenError as error:
        if "::1" not in listen:
            raise
        pytest.skip(f"no IPv6 here: {error}")


async def test_a_path_too_long_is_said_so(tmp_path: Path) -> None:
    """Linux takes 107 bytes; both the door and the way say that it is too long."""
    listen = f"unix:{tmp_path / ('x' * 120)}"
    door = UnixAcceptor(name="control")
    try:
        with pytest.raises(ListenError, match="too long"):
            await door.start(listen)
    finally:
        await door.aclose()
    async with way(FORGE.source(ROUTER), listen) as out:
        assert "too long" in str((await out.refusal()).details())


async def test_a_rotation_during_the_handshake_is_not_missed() -> None:
    """Who was shown the old leaf is asked to come again for the new one."""
    source = RotatingSource(FORGE.material(PICOD))
    async with hosted(source) as node:
        host, _, port = node.address.rpartition(":")
        reader, writer = await asyncio.open_connection(
            host, int(port), ssl=tls(FORGE.svid(ROUTER)), server_hostname="x"
        )
        source.publish(FORGE.material(PICOD, generation=2))
        writer.write(PREFACE + frame(1, 4, 1, b""))
        heard = b""
        async with asyncio.timeout(5):
            while GOAWAY not in heard:
                heard += await reader.read(65536)
        writer.transport.abort()


async def test_a_file_that_is_no_socket_is_never_replaced(tmp_path: Path) -> None:
    """Nobody's data is taken for a left-over socket."""
    path = tmp_path / "data.sock"
    path.write_text("precious")
    door = UnixAcceptor(name="control")
    try:
        with pytest.raises(ListenError):
            await door.start(f"unix:{path}")
    finally:
        await door.aclose()
    assert path.read_text() == "precious"


async def test_leaves_no_task_no_descriptor_and_no_file() -> None:
    """After `aclose` nothing is left, also of connections that were open."""
    tasks, files = len(asyncio.all_tasks()), 0
    for lap in range(8):
        async with mesh() as one:
            stream = one.way.both()
            await stream.write(b"x")
            assert await stream.read() == b"x"
        files = files or len(os.listdir("/proc/self/fd")) if lap else 0  # noqa: PTH208
    assert len(asyncio.all_tasks()) == tasks
    # Each lap opens a dozen; gRPC keeps a few of its own for a while
    await until(lambda: len(os.listdir("/proc/self/fd")) < files + 6)  # noqa: PTH208


async def test_the_door_for_our_own_user_knows_no_names(tmp_path: Path) -> None:
    """It takes only Unix paths, and gives its peers no identity."""
    door = UnixAcceptor(name="control")
    server = grpc.aio.server()
    server.add_insecure_port(door.backend)
    try:
        await server.start()
        with pytest.raises(ValueError, match="no TLS"):
            await door.start("127.0.0.1:0")
        address = await door.start(f"unix:{tmp_path / 'control.sock'}")
        async with grpc.aio.insecure_channel(address) as direct:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(direct)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(PeerRefusedError):
            door.peer("unix:")
    finally:
        await door.aclose()
        await server.stop(0)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_another_user_does_not_pass_the_door_for_our_own(
    open_folder: Path,
) -> None:
    """Rights of the file alone do not decide: the kernel says whose process it is."""
    door = UnixAcceptor(name="control")
    path = open_folder / "control.sock"
    code = (
        "import os,socket,sys;os.setuid(int(sys.argv[2]));"
        "s=socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]);s.settimeout(5);print(len(s.recv(1)))"
    )
    server = grpc.aio.server()
    server.add_insecure_port(door.backend)
    try:
        await server.start()
        await door.start(f"unix:{path}")
        path.chmod(0o777)
        for user, answer in ((65534, b"0\n"), (0, b"1\n")):
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                code,
                str(path),
                str(user),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await child.communicate()
            assert out == answer
        assert door.refusals == {"other_user": 1}
    finally:
        await door.aclose()
        await server.stop(0)


async def test_a_leaf_of_the_past_is_refused_by_our_clock() -> None:
    """Dates are judged by the clock we are given, at both ends of the leaf."""
    clock = FakeClock()
    forge = Forge(now=clock.now() - timedelta(hours=3))
    source = RotatingSource(forge.material(PICOD, life=86400))
    async with hosted(source, clock=clock) as node:
        assert await knock(node.address, tls(forge.svid(ROUTER))) == b""
        await until(lambda: node.acceptor.refusals)
        assert node.acceptor.refusals == {"expired": 1}


def test_the_fixed_source_is_enough() -> None:
    """Nothing but `current` and `subscribe` is asked of a source."""
    source = FixedSource(FORGE.material(PICOD))
    asyncio.run(Acceptor(source, allow=Allowlist.parse(ROUTER)).aclose())
