"""A real Router process: its doors, both ways to a sandbox, its beginning and end."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from auth import Principal, PublicKeys, Verifier, bearer
from tests.fakes import until
from tests.forge import Forge
from tests.router.mesh import SESSION, error_of, send
from tests.router.process import (
    ADA,
    EVE,
    MANAGER,
    ROUTER,
    SANDBOX,
    Town,
    start,
    town,
)
from tests.router.upstream import READ, STAT, Script
from tests.tlsloader.posing import Ear, posing
from tests.tlsloader.transport import PREFACE, tls

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

pytestmark = pytest.mark.slow

# OpenSSL, which sees the chain first, has one word for all that is wrong with it
COARSE = ("untrusted_chain", "wrong_purpose")
OTHER_SANDBOX = SANDBOX.replace("sbx-1", "sbx-2")


async def knock(net: Town, context: ssl.SSLContext | None) -> bytes:
    """Connect, speak first, and return what is answered before the end."""
    host, _, port = net.listen.rpartition(":")
    how: dict[str, Any] = {"ssl": context, "server_hostname": "x"} if context else {}
    answer = b""
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(host, int(port), **how)
        try:
            writer.write(PREFACE)
            answer = await reader.read(65536)
        finally:
            writer.transport.abort()
    return answer


async def until_closed(listen: str) -> None:
    """Return once nobody listens there."""
    host, _, port = listen.rpartition(":")
    with suppress(ConnectionRefusedError):
        while True:
            with suppress(ConnectionResetError):  # it was in the queue of the listener
                _, writer = await asyncio.open_connection(host, int(port))
                writer.transport.abort()


def stat(door: grpc.aio.Channel, session: str) -> Any:
    return send(door, STAT, metadata=[(SESSION, session)], timeout=20)


async def test_a_user_reaches_the_sandbox(tmp_path: Path) -> None:
    """All three identities proven; the sandbox is told who calls."""
    async with town(tmp_path) as net, net.door() as door:
        session = net.session()
        assert await stat(door, session.session_id) == b"onetwo"
        told = net.sandbox.metadata["x-cubemesh-principal-bin"]
        assert isinstance(told, bytes)
        assert Principal.decode(told) == Principal("spiffe://cluster.local", ADA, "ada")
        assert "authorization" not in net.sandbox.metadata
        proven = {each["peer_id"] for each in net.records("peer proven")}
        assert proven == {MANAGER, SANDBOX}
        assert net.records("peer admitted")[-1]["peer_id"] == ADA


async def test_another_user_does_not(tmp_path: Path) -> None:
    """A valid certificate of somebody else: refused, and in the audit log."""
    async with town(tmp_path) as net, net.door(EVE) as door:
        call = stat(door, net.session().session_id)
        assert (await error_of(call))[1] == "SESSION_NOT_YOURS"
        refused = await net.logged("refused")
        assert (refused["who"], refused["reason"]) == (EVE, "SESSION_NOT_YOURS")


async def test_the_front_door_answers_no_bad_certificate(tmp_path: Path) -> None:
    """Whatever is wrong with it: not one byte of HTTP/2, and the log says why."""
    async with town(tmp_path) as net:
        assert (await knock(net, tls(net.mesh.svid(ADA))))[3] == 4, "SETTINGS"
        for count, case in enumerate(net.mesh.bad_cases(ADA), 1):
            assert await knock(net, tls(case.chain)) == b"", case.title
            refused = await net.logged("peer refused", count)
            assert refused["reason"] in {case.reason, *COARSE}, case.title


@pytest.mark.parametrize("lowered", [True, False])
async def test_one_flag_lowers_tls_for_all_doors_and_ways(
    tmp_path: Path, *, lowered: bool
) -> None:
    """TLS 1.2 both from callers and to sandboxes; otherwise to nobody."""
    flags = ("--tls-min-version", "1.2") if lowered else ()
    async with town(tmp_path, *flags) as net, net.door() as door:
        context = tls(net.mesh.svid(ADA), "1.2")
        assert (await knock(net, context))[3:4] == (b"\4" if lowered else b"")
        async with posing(net.sandboxes.svid(SANDBOX), Ear(), "1.2") as address:
            call = stat(door, net.session(address=address).session_id)
            if lowered:
                await until(lambda: SANDBOX in str(net.records("peer proven")))
            else:
                assert (await net.logged("dial failed"))["expected"] == SANDBOX
            call.cancel()


async def test_the_front_door_answers_nobody_else(tmp_path: Path) -> None:
    """No certificate, no TLS, services, a sandbox: none of them is a user."""
    async with town(tmp_path) as net:
        strangers = [
            tls(None),
            None,
            tls(net.mesh.svid(MANAGER)),
            tls(net.mesh.svid(ROUTER)),
            tls(net.mesh.svid("spiffe://cluster.local/users/ada")),
            tls(net.sandboxes.svid(SANDBOX)),
            tls(net.sandboxes.svid("spiffe://sandbox.cluster.local/user/ada")),
            tls(Forge("sandbox.cluster.local").svid(SANDBOX)),
        ]
        for number, context in enumerate(strangers, 1):
            assert await knock(net, context) == b""
            await net.logged("peer refused", number)


async def test_prometheus_hears_of_doors_and_dialers(tmp_path: Path) -> None:
    """Who came, who did not get in and why, and whom we reached."""
    async with town(tmp_path) as net, net.door() as door:
        assert await stat(door, net.session().session_id) == b"onetwo"
        assert await knock(net, tls(net.mesh.svid(MANAGER))) == b""
        await net.logged("peer refused")
        assert {
            'cubemesh_door_connections{door="front"} 1.0',
            'cubemesh_door_refused_total{door="front",reason="not_admitted"} 1.0',
            'cubemesh_dial_connections{dial="workloadmanager"} 1.0',
            'cubemesh_dial_connections{dial="sandbox"} 1.0',
        } <= await net.figures()


async def test_no_flag_lets_a_sandbox_in(tmp_path: Path) -> None:
    """Even where --client-ids names their whole trust domain."""
    clients = "spiffe://sandbox.cluster.local/"
    async with (
        town(tmp_path, "--client-ids", clients) as net,
        net.door(SANDBOX, foreign=net.sandboxes) as door,
    ):
        call = send(door, "/cubemesh.v1.Sessions/ListTemplates")
        assert (await error_of(call))[:2] == (
            grpc.StatusCode.PERMISSION_DENIED,
            "DENIED",
        )
        assert await call.details() == "denied"
        assert (await net.logged("call refused"))["reason"] == "sandbox"


async def test_an_impostor_gets_no_call(tmp_path: Path) -> None:
    """A sandbox with another sandbox's valid SVID; the caller learns no internals."""
    async with town(tmp_path, sandbox_id=OTHER_SANDBOX) as net, net.door() as door:
        call = stat(door, net.session().session_id)
        code, reason, metadata = await error_of(call)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert (reason, metadata) == ("SANDBOX_UNREACHABLE", {})
        assert "spiffe" not in (await call.details() or "")
        failed = await net.logged("dial failed")
        assert (failed["expected"], failed["presented"]) == (SANDBOX, OTHER_SANDBOX)
        assert not net.sandbox.entered.is_set()


async def test_a_false_manager_is_not_asked(tmp_path: Path) -> None:
    """Another service in the WorkloadManager's place is told nothing."""
    async with town(tmp_path, manager_id=ROUTER) as net, net.door() as door:
        call = send(door, "/cubemesh.v1.Sessions/ListTemplates")
        assert (await error_of(call))[:2] == (
            grpc.StatusCode.UNAVAILABLE,
            "WORKLOADMANAGER_UNREACHABLE",
        )
        assert "spiffe" not in (await call.details() or "")
        assert not net.manager.asked


async def test_a_token_vouches_in_jwt_mode(tmp_path: Path) -> None:
    """One token for this sandbox, session and principal, reused while fresh."""
    async with town(tmp_path, mode="jwt") as net, net.door() as door:
        session = net.session()
        tokens = []
        for _ in range(2):
            assert await stat(door, session.session_id) == b"onetwo"
            tokens.append(bearer(net.sandbox.metadata.items()))
        assert tokens[0] == tokens[1]
        assert "x-cubemesh-principal-bin" not in net.sandbox.metadata
        keys = await PublicKeys.load(tmp_path / "public.json")
        verifier = Verifier(keys, session.sandbox_id)
        claims = verifier.verify(tokens[0], session_id=session.session_id)
        assert claims.principal.subject == ADA


async def test_a_token_never_goes_over_a_network(tmp_path: Path) -> None:
    """In jwt mode only Unix sockets are reached; nothing is sent elsewhere."""
    async with town(tmp_path, mode="jwt") as net, net.door() as door:
        seen = asyncio.Event()

        def connected(_: object, writer: asyncio.StreamWriter) -> None:
            seen.set()
            writer.close()

        listener = await asyncio.start_server(connected, "127.0.0.1", 0)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            session = net.session(address=f"127.0.0.1:{port}")
            call = stat(door, session.session_id)
            assert (await error_of(call))[1] == "SANDBOX_UNREACHABLE"
            assert not seen.is_set()


async def test_running_calls_end_well_at_the_end(tmp_path: Path) -> None:
    """SIGTERM: what runs may finish, then the process ends with 0."""
    async with town(tmp_path) as net, net.door() as door:
        net.sandbox.script = Script(pause=True)
        session = net.session()
        call = send(door, READ, metadata=[(SESSION, session.session_id)], timeout=20)
        assert await call.read() == b"one"
        net.process.send_signal(signal.SIGTERM)
        await until_closed(net.listen)
        net.sandbox.go.set()
        assert await call.read() == b"two"
        assert await call.code() is grpc.StatusCode.OK
        del call  # gRPC keeps a connection as long as anybody holds a call of it
        assert await net.process.wait() == 0
        assert "Traceback" not in net.log.read_text()


async def test_workers_are_one_router(tmp_path: Path) -> None:
    """Any of them reaches any session, whoever of them has heard of it first."""
    async with town(tmp_path, "--workers", "2") as net:
        await until(lambda: len(net.manager.watchers) == 2)
        session, sandboxes = net.session(), net.manager.asked["GetSession"]
        while net.manager.asked["GetSession"] < sandboxes + 2:  # each looks it up once
            async with net.door() as door:
                assert await stat(door, session.session_id) == b"onetwo"
        net.process.send_signal(signal.SIGTERM)
        assert await net.process.wait() == 0
        assert "Traceback" not in net.log.read_text()


async def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    """A second Router on one port says so and does not share it in silence."""
    async with town(tmp_path) as net, AsyncExitStack() as stack:
        paths = tmp_path / "own"
        log = tmp_path / "second"
        second = await start(
            stack,
            log,
            *("--listen", net.listen, "--workloadmanager", f"unix:{tmp_path}/m"),
            *("--workloadmanager-id", MANAGER),
            *("--mtls-cert-file", str(paths / "svid.pem")),
            *("--mtls-key-file", str(paths / "key.pem")),
            *("--mtls-ca-file", str(paths / "bundle.pem")),
        )
        assert await second.wait() == 69
        text = log.read_text()
        assert f"error: cannot listen on {net.listen}" in text
        assert "hint: " in text
