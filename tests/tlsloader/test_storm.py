"""A thousand connections at once, most of them bad: the good ones hardly notice."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import statistics
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.forge import Forge
from tests.tlsloader.transport import PICOD, ROUTER, STRANGER, hosted, until, way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tlsloader import Source

pytestmark = pytest.mark.slow

BOTH_LOOPS = True

FORGE = Forge()
EACH = 125
KINDS = 8
"""Silent, garbage, half a word, HTTP; good, stranger, forged, expired."""
MIB = 1 << 20
_REPOSITORY = Path(__file__).parents[2]


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Let this process hold as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def storm(
    address: str, origin: str, folder: Path
) -> AsyncIterator[asyncio.Future[Any]]:
    """Come from *origin* a thousand times at once.

    Yields what will be said of those that shook hands.
    """
    shown = {
        "good": FORGE.svid(ROUTER),
        "stranger": FORGE.svid(STRANGER),
        "forged": Forge().svid(ROUTER),
        "expired": FORGE.svid(ROUTER, age=7200, life=-1),
    }
    for kind, svid in shown.items():
        (folder / f"{kind}.pem").write_bytes(svid.key + svid.chain)
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.tlsloader.storming"),
        *(address, origin, str(folder), str(EACH)),
        cwd=_REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        begun = json.loads(await program.stdout.readline())
        assert begun == {"storming": KINDS * EACH}
        yield asyncio.ensure_future(program.stdout.readline())
        program.stdin.close()
        assert await program.wait() == 0
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()


async def newcomer(source: Source, address: str) -> float:
    """Come on a new connection and call; return how long that took."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with way(source, address) as out:
        assert await out.call() == b"hello"
    return loop.time() - start


@pytest.mark.parametrize("origin", ["127.0.0.2", "127.0.0.1"])
async def test_good_callers_are_served_while_the_storm_lasts(
    tmp_path: Path, origin: str
) -> None:
    """Within a second, each of them; and afterwards all is as it was before.

    The second is for the half of them, since other programs share this machine; that
    each is served, by a dial of five seconds, is not. Where the storm has an address of
    its own, newcomers overtake it.
    """
    source, process = FORGE.source(ROUTER), psutil.Process()
    with many_descriptors():
        async with (
            hosted(FORGE.source(PICOD), handshake_timeout=60) as node,
            way(source, node.address) as old,
        ):
            await old.call()
            await newcomer(source, node.address)
            await until(lambda: node.acceptor.connections == 1)
            files, memory = process.num_fds(), process.memory_info().rss
            took = []
            async with storm(node.address, origin, tmp_path) as ends:
                while not ends.done():
                    took.append(await newcomer(source, node.address))
                    await old.call()
                said = json.loads(await ends)
            assert len(took) > 2
            assert statistics.median(took) < 1.0
            assert said == {
                "good": {"served": EACH},
                **{
                    kind: {"refused": EACH}
                    for kind in ("stranger", "forged", "expired")
                },
            }
            refused = node.acceptor.refusals
            await until(lambda: len(node.acceptor._tasks) == 1, 20)
            assert refused == {
                "not_admitted": EACH,
                "untrusted_chain": EACH,
                "expired": EACH,
                "not_tls": 2 * EACH,  # garbage and HTTP
                "hung_up": 2 * EACH,  # the silent, and those that broke off
            }
            assert node.acceptor.connections == 1
            assert await old.call() == b"hello"
            gc.collect()
            await until(lambda: process.num_fds() < files + 10)
            assert process.memory_info().rss - memory < 96 * MIB
