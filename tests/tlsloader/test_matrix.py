"""Nobody bad gets in, whatever is wrong with it; we know why, and it does not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Any

import pytest

from tests.forge import Forge
from tests.tlsloader.matrix import COLUMNS, Column, Shown, column, context_of, knock
from tests.tlsloader.transport import ROUTER

pytestmark = pytest.mark.slow

BOTH_LOOPS = True


@pytest.mark.parametrize("at", COLUMNS, ids=str)
async def test_every_bad_peer_is_refused_for_its_own_reason(at: Column) -> None:
    """And in silence; a good one, which comes in the same way, is let in."""
    good, *bad = await column(at)
    assert good.accepted
    assert len(bad) > 35
    for verdict in bad:
        assert verdict.held, verdict
        # Our own callers read whom they did not reach
        assert at.role == "client" or at.identity in verdict.said


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_the_silence_would_be_noticed_if_it_were_broken(version: str) -> None:
    """A server that leaves TLS to OpenSSL alone does tell why it refuses."""
    shown = Shown("forged", "untrusted_chain", Forge().svid(ROUTER))
    strict = context_of(ssl.PROTOCOL_TLS_SERVER, shown, version)
    assert strict is not None
    strict.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            how: Any = {"server_side": True, "do_handshake_on_connect": False}
            with strict.wrap_socket(listening.accept()[0], **how) as secure:
                with suppress(ssl.SSLError):
                    secure.do_handshake()
                # Its end must not overtake the alert
                while socket.socket.recv(secure, 65536):
                    pass

        address = "{}:{}".format(*listening.getsockname())
        refusing = asyncio.ensure_future(asyncio.to_thread(refuse))
        client = context_of(ssl.PROTOCOL_TLS_CLIENT, shown, version)
        assert "ALERT_UNKNOWN_CA" in await asyncio.to_thread(knock, address, client)
        await refusing
