"""TLS 1.3 alone unless told otherwise; and what holds for TLS 1.2 where it is."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.forge import Forge
from tests.piped import piped
from tests.tlsloader.posing import Ear, posing
from tests.tlsloader.transport import (
    PICOD,
    PREFACE,
    ROUTER,
    SETTINGS,
    STRANGER,
    hosted,
    knock,
    show,
    speak_only,
    tls,
    until,
    way,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.forge import Svid

BOTH_LOOPS = True

FORGE = Forge()
VERSIONS = ["1.2", "1.3"]


def asks(version: str = "1.2") -> ssl.SSLContext:
    return tls(FORGE.svid(ROUTER), version)


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    dials = [each for each in caplog.records if each.message == "dial failed"]
    return [vars(each)["reason"] for each in dials]


async def test_tls_1_2_is_refused() -> None:
    """The minimum is TLS 1.3."""
    async with hosted(FORGE.source(PICOD)) as node:
        assert await knock(node.address, asks()) == b""
        await until(lambda: node.acceptor.refusals)
        assert node.acceptor.refusals == {"tls_version": 1}


async def test_a_server_of_tls_1_2_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Also where we are the client."""
    async with (
        posing(FORGE.svid(PICOD), Ear(), "1.2") as address,
        way(FORGE.source(ROUTER), address) as out,
    ):
        await out.refusal()
    # asyncio's server says no alert, as ours does not
    assert failures(caplog)[0] in {"tls_version", "hung_up"}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_lowered_minimum_serves_both(version: str) -> None:
    """Both roles take TLS 1.2 then, and still prove the other side."""
    source = FORGE.source(PICOD)
    async with hosted(source, minimum_tls="1.2") as node:
        assert (await knock(node.address, asks(version)))[3] == SETTINGS
    ear = Ear()
    async with (
        posing(FORGE.svid(PICOD), ear, version) as address,
        way(FORGE.source(ROUTER), address, minimum_tls="1.2") as out,
    ):
        calling = asyncio.ensure_future(out.call())
        await until(lambda: PREFACE[:24] in ear.heard)
        calling.cancel()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_lowered_minimum_admits_nobody_else(version: str) -> None:
    """No certificate, a stranger's, a forged one: no byte of HTTP/2 for them."""
    shown = [None, FORGE.svid(STRANGER), Forge().svid(ROUTER)]
    async with hosted(FORGE.source(PICOD), minimum_tls="1.2") as node:
        for svid in shown:
            assert await knock(node.address, tls(svid, version)) == b""
        await until(lambda: node.acceptor.refusals.total() == len(shown))
        assert node.acceptor.refusals == {
            "no_certificate": 1,
            "not_admitted": 1,
            "untrusted_chain": 1,
        }


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_server_that_refuses_us_is_not_a_good_dial(version: str) -> None:
    """It judges our name after the handshake, whatever the version."""
    minimum: Any = {"minimum_tls": version}
    async with (
        hosted(FORGE.source(PICOD), allow=STRANGER, **minimum) as node,
        way(FORGE.source(ROUTER), node.address, **minimum) as out,
    ):
        details = (await out.refusal()).details() or ""
        assert f"most likely refuses us, {ROUTER}" in details
        assert out.dialer.connections == 0


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_of_ours_is_never_resumed(version: str) -> None:
    """A client that has seen us before proves itself anew, by a full handshake."""
    context = asks(version)
    async with hosted(FORGE.source(PICOD), minimum_tls="1.2") as node:
        session = None
        for _ in range(3):
            session, resumed = await asyncio.to_thread(
                _visit, node.address, context, session
            )
            assert not resumed
        assert not node.acceptor.refusals


async def test_a_ticket_from_elsewhere_brings_nobody_in() -> None:
    """A ticket of another server with our very certificate is none of ours."""
    context, svid = asks("1.3"), FORGE.svid(PICOD)
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    show(lax, svid)
    speak_only(lax, "1.3")

    async def speak(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(9))

    server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=lax)
    async with server:
        elsewhere = "{}:{}".format(*server.sockets[0].getsockname())
        ticket, _ = await asyncio.to_thread(_visit, elsewhere, context, None)
        assert ticket is not None
        assert ticket.has_ticket
        _, resumed = await asyncio.to_thread(_visit, elsewhere, context, ticket)
        assert resumed
        async with hosted(FORGE.source(PICOD)) as node:
            _, resumed = await asyncio.to_thread(_visit, node.address, context, ticket)
            assert not resumed


def _visit(
    address: str, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Connect with a *session* of before; return one for the next time."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="x", session=session) as secure,
    ):
        secure.sendall(PREFACE)
        assert len(secure.recv(9)) == 9
        return secure.session, secure.session_reused


@pytest.mark.parametrize(
    "ciphers", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "AES128-SHA"]
)
async def test_tls_1_2_has_no_weak_ciphers(ciphers: str) -> None:
    """No CBC and no key that a stolen one opens later, in either role."""
    context = asks()
    context.set_ciphers(ciphers)
    async with hosted(FORGE.source(PICOD), minimum_tls="1.2") as node:
        assert await knock(node.address, context) == b""
        await until(lambda: node.acceptor.refusals)
        assert node.acceptor.refusals == {"no_shared_cipher": 1}


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
class TestOpenSSL:
    """The same by a client that is not Python's."""

    @pytest.mark.slow
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_reconnects_in_full(self, version: str, tmp_path: Path) -> None:
        """``-reconnect`` comes back five times with the session that it was given."""
        async with hosted(FORGE.source(PICOD), minimum_tls="1.2") as node:
            flag = f"-tls{version.replace('.', '_')}"
            said = await _s_client(node.address, tmp_path, flag, "-reconnect")
        assert said.count("New, TLSv") == 6
        assert "Reused" not in said

    @pytest.mark.slow
    async def test_cannot_renegotiate(self, tmp_path: Path) -> None:
        """A peer must not become another one, nor make us work, on one connection."""
        async with hosted(FORGE.source(PICOD), minimum_tls="1.2") as node:
            said = await _s_client(node.address, tmp_path, "-tls1_2", say="R\n")
        assert "RENEGOTIATING" in said
        assert "no renegotiation" in said

    @pytest.mark.slow
    async def test_is_not_heard_before_its_handshake(self, tmp_path: Path) -> None:
        """0-RTT would carry words that anybody may say again: there is none."""
        session, early = tmp_path / "session.pem", tmp_path / "early"
        early.write_bytes(PREFACE)
        generosity = ("-tls1_3", "-early_data")
        async with _s_server(tmp_path, FORGE.svid(PICOD), *generosity) as generous:
            keep = ("-tls1_3", "-sess_out", str(session))
            await _s_client(generous, tmp_path, *keep, stay=session.exists)
            again = ("-sess_in", str(session), "-early_data", str(early))
            said = await _s_client(generous, tmp_path, *again)
            assert "Early data was accepted" in said
        async with hosted(FORGE.source(PICOD)) as node:
            said = await _s_client(node.address, tmp_path, *again)
        assert "Early data was rejected" in said
        assert "New, TLSv1.3" in said

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("svid", "flags", "reason"),
        [
            (Forge().svid(PICOD), ("-alpn", "h2"), "untrusted_chain"),
            (FORGE.svid(STRANGER), ("-alpn", "h2"), "not_admitted"),
            (FORGE.svid(PICOD), (), "no_http2"),
            (FORGE.svid(PICOD), ("-alpn", "h2", "-tls1_2"), "tls_version"),
        ],
        ids=["another authority", "somebody else", "no HTTP/2", "TLS 1.2"],
    )
    async def test_is_judged_as_a_server(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        svid: Svid,
        flags: tuple[str, ...],
        reason: str,
    ) -> None:
        """A bad server is found out by its certificate, its ALPN, its version."""
        async with (
            _s_server(tmp_path, svid, *flags) as address,
            way(FORGE.source(ROUTER), address) as out,
        ):
            await out.refusal()
        assert set(failures(caplog)) == {reason}


async def _s_client(
    address: str,
    folder: Path,
    *flags: str,
    say: str = "",
    stay: Callable[[], bool] = lambda: True,
) -> str:
    """Run ``openssl s_client`` as the Router; return all that it says.

    It leaves once *stay* holds. If it has something to *say*, it does so after it has
    heard our SETTINGS, and stays until it is sent away.
    """
    file, svid = folder / "router.pem", FORGE.svid(ROUTER)
    file.write_bytes(svid.key + svid.chain)
    argv = ("-connect", address, "-cert", str(file), "-key", str(file), "-alpn", "h2")
    async with piped("openssl", "s_client", *argv, *flags) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = b""
        if say:
            said = await process.stdout.readuntil(bytes((0, 0, 18, SETTINGS)))
            process.stdin.write(say.encode())
        else:
            await until(stay)
            process.stdin.close()
        return (said + await process.stdout.read()).decode(errors="replace")


@asynccontextmanager
async def _s_server(folder: Path, svid: Svid, *flags: str) -> AsyncIterator[str]:
    """Run ``openssl s_server`` with *svid*; yield where."""
    file = folder / "server.pem"
    file.write_bytes(svid.key + svid.chain)
    argv = ("-accept", "127.0.0.1:0", "-cert", str(file), "-key", str(file))
    async with piped("openssl", "s_server", *argv, *flags) as process:
        assert process.stdout is not None
        while not (said := await process.stdout.readline()).startswith(b"ACCEPT"):
            pass
        yield said.split()[1].decode()
