"""All that a PicoD does first, done once for all that are forked afterwards."""

from __future__ import annotations

import asyncio
import io
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from auth import rehearse as rehearse_tokens
from authority import Authority
from clock import SYSTEM
from picod._settings import Settings
from serving import configure_logging, parse
from tlsloader import Acceptor, Allowlist, Dialer, Handed, HandedSource, SpiffeID

__all__ = ["rehearse"]

_TIMES: Final = 8  # the interpreter has made its code faster by then
_DOMAIN: Final = "rehearsal"
_US: Final = SpiffeID(_DOMAIN, "/us")
_FLAGS: Final = (
    *(
        "--listen",
        "unix:/rehearsal/data",
        "--control-listen",
        "unix:/rehearsal/control",
    ),
    *("--sandbox-id", "sbx-" + 26 * "a", "--router-id", str(_US), "--uid", "1"),
    *("--identity-fd", "3", "--limit", "memory=1GiB", "--orphan-timeout", "900s"),
)
_SETTINGS: Final = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The first frame of an HTTP/2 server. Source: RFC 9113, section 6.5."""


def rehearse() -> None:
    """Read flags, verify tokens, and let somebody in at a door, all worth nothing.

    Libraries set themselves up when they are first used, and whoever is forked
    afterwards has that. No identity takes part: the authority of this play is made
    for it, trusted by nobody, and gone afterwards. Nor does gRPC.
    """
    configure_logging("picod", "info", io.StringIO())
    for _ in range(_TIMES):
        parse(Settings, _FLAGS, {}, prog="picod")
        rehearse_tokens()
    with TemporaryDirectory(prefix="rehearsal-") as folder:
        asyncio.run(_meet(Path(folder) / "door"))


async def _meet(path: Path) -> None:
    """Have a door opened, and come in there some times."""
    authority = Authority.create(_DOMAIN, now=SYSTEM.now())
    async with AsyncExitStack() as stack:
        source = await HandedSource.begin(_handed(authority))
        door = Acceptor(source, allow=Allowlist.parse(str(_US)))
        stack.push_async_callback(door.aclose)
        backend = door.backend.removeprefix("unix:")
        behind = await asyncio.start_unix_server(_serve, backend)
        await stack.enter_async_context(behind)
        address = await door.start(f"unix:{path}")
        dialer = Dialer(source, expected=_US, address=address)
        stack.push_async_callback(dialer.aclose)
        target = await dialer.start()
        for _ in range(_TIMES):
            await _come(target.removeprefix("unix:"))


def _handed(authority: Authority) -> Handed:
    issued = authority.issue(_US, life=timedelta(minutes=5), now=SYSTEM.now())
    return Handed(issued.key, issued.chain, authority.bundle, {})


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say the first that a server of HTTP/2 says, and wait for the other to go."""
    writer.write(_SETTINGS)
    await reader.read()
    writer.close()


async def _come(path: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    await reader.readexactly(len(_SETTINGS))
    writer.close()
    await writer.wait_closed()
