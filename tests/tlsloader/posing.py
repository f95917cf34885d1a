"""Servers of our own making: what a dialer may find in the place of the right one."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.tlsloader.transport import show, speak_only
from tlsloader._frames import frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.forge import Svid

    Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def posing(
    svid: Svid | None, speak: Speak, version: str = ""
) -> AsyncIterator[str]:
    """Run a careless server that shows *svid*; ``None``: no TLS."""
    context = None
    if svid is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2"])
        context.set_ciphers("ALL:@SECLEVEL=0")
        speak_only(context, version)
        show(context, svid)
    server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}"
    finally:
        server.close()


class Ear:
    """A server that says its SETTINGS, or *say*, and keeps what it hears."""

    def __init__(self, say: bytes = frame(4, 0, 0)) -> None:
        self.say = say
        self.heard = b""

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            writer.write(self.say)
            while data := await reader.read(65536):
                self.heard += data
        except OSError:
            pass
        finally:
            writer.transport.abort()


async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a server that leaves without a word."""
    writer.close()
