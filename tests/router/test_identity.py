"""A real Router without an identity, with one, past its end, and with one again."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from clock import SYSTEM
from tests.fakes import until
from tests.forge import Forge
from tests.router.process import ADA, MANAGER, ROUTER, start
from tests.tlsloader.transport import knock, tls

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


class Watched:
    """A Router's log and metrics."""

    def __init__(self, log: Path, metrics: str) -> None:
        self._log = log
        self._url = f"http://{metrics}/metrics"

    async def logs(self, event: str) -> None:
        """Return once *event* stands in the log."""
        async with asyncio.timeout(20):
            await until(lambda: f'"{event}"' in self._log.read_text())

    async def shows(self, name: str, value: float) -> None:
        """Return once the figure *name* is *value*."""
        async with asyncio.timeout(20):
            while f"\n{name} {value}\n" not in await asyncio.to_thread(self._scraped):
                pass

    def _scraped(self) -> str:
        with urlopen(self._url, timeout=5) as answer:  # noqa: S310 -- our own
            return str(answer.read().decode())


def free_address() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


async def test_serves_while_it_can_prove_who_it_is(tmp_path: Path) -> None:
    """Nothing before the first identity, nothing after the last, and then again."""
    forge, log, own = Forge("cluster.local"), tmp_path / "log", tmp_path / "own"
    listen = free_address()
    flags = (
        *("--listen", listen, "--workloadmanager", f"unix:{tmp_path}/m"),
        *("--workloadmanager-id", MANAGER, "--mtls-ca-file", f"{own}/bundle.pem"),
        *("--mtls-cert-file", f"{own}/svid.pem", "--mtls-key-file", f"{own}/key.pem"),
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(60))
        process = await start(stack, log, *flags)
        watched = Watched(log, "")
        await watched.logs("identity awaited")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*listen.split(":"))
        forge.now = SYSTEM.now()
        forge.write(own, ROUTER, life=6)
        assert process.stdout is not None
        told = json.loads(await process.stdout.readline())
        watched = Watched(log, told["metrics"])
        caller = tls(forge.svid(ADA))
        await watched.shows("cubemesh_identity_usable", 1.0)
        assert await knock(listen, caller)
        await watched.logs("identity expired")
        await watched.shows("cubemesh_identity_usable", 0.0)
        assert not await knock(listen, caller)
        await watched.logs("own_identity_expired")
        forge.write(own, ROUTER)
        await watched.shows("cubemesh_identity_generation", 2.0)
        assert await knock(listen, caller)
