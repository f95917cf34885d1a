"""A forked child must not speak in its parent's name, nor wait, nor break anything."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.forge import Forge
from tests.tlsloader.transport import PICOD, ROUTER, Hosted, hosted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.slow

FORGE = Forge()
LOOPS = ["asyncio", "uvloop"]
_REPOSITORY = Path(__file__).parents[2]


class Said:
    """What parent and child printed, by what they did, and what was logged."""

    def __init__(self, lines: bytes, log: bytes, node: Hosted) -> None:
        self.by = {each["did"]: each for each in map(json.loads, lines.splitlines())}
        self.log = log.decode()
        self.child = 0
        self.node = node


@asynccontextmanager
async def forked(
    folder: Path, deed: str, support: str = "0", loop: str = "asyncio"
) -> AsyncIterator[Said]:
    """Run a program that forks; the parent must still work.

    *support* is gRPC's own help for forks, which is off unless somebody asks for it.
    """
    FORGE.put(folder, FORGE.svid(ROUTER))
    async with hosted(FORGE.source(PICOD)) as node:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.tlsloader.forking"),
            *(node.address, str(folder), deed, loop),
            cwd=_REPOSITORY,
            env={**_environment(), "GRPC_ENABLE_FORK_SUPPORT": support},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(30):
                said = Said(*await program.communicate(), node)
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        assert program.returncode == 0, said.log
        assert said.by["parent"]["left"]
        said.child = said.by["parent"]["child"]
        assert said.child != signal.SIGALRM, "it hung"
        assert support == "1" or deed == "leave" or said.child == 0
        yield said


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath}


async def test_a_call_in_the_child_fails_at_once(tmp_path: Path) -> None:
    """On a channel that it inherits, and on one that it opens: gRPC has no threads."""
    async with forked(tmp_path, "use") as said:
        for deed in ("prepared", "fresh", "state", "new"):
            assert "from which this one was forked" in said.by[deed]["failed"]
        assert said.node.service.calls == 3  # the parent's


async def test_with_grpcs_help_for_forks_no_call_passes_either(tmp_path: Path) -> None:
    """It may even crash the child (tried: with gRPC alone, too), but not the parent."""
    async with forked(tmp_path, "use", support="1") as said:
        deeds = [each for each in said.by.values() if "failed" in each]
        assert all(each["failed"] for each in deeds)
        assert said.node.service.calls == 3


@pytest.mark.parametrize("loop", LOOPS)
async def test_the_child_holds_no_connection(tmp_path: Path, loop: str) -> None:
    """Whatever it writes to what it inherited reaches neither server nor parent."""
    async with forked(tmp_path, "speak", loop=loop) as said:
        assert said.by["speak"]["alive"] == 0
        assert said.node.acceptor.connections <= 1


async def test_the_child_is_turned_away_at_the_private_socket(tmp_path: Path) -> None:
    """It reads whose channel that is, and the parent's log tells of it."""
    async with forked(tmp_path, "come") as said:
        assert "this channel is that of process" in said.by["come"]["heard"]
        assert "peer refused" in said.log
        assert said.node.service.calls == 3


async def test_what_the_child_closes_stays_open(tmp_path: Path) -> None:
    """Neither the private folder nor a connection of the parent's goes with it."""
    async with forked(tmp_path, "tidy") as said:
        assert said.by["tidy"]


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_loop_that_runs_on_in_the_child_takes_nothing(
    tmp_path: Path, loop: str
) -> None:
    """The child leaves by the way it came; its loop shares the parent's poll.

    What becomes of the child is gRPC's to say: it ends, or crashes.
    """
    async with forked(tmp_path, "leave", support="0", loop=loop) as said:
        assert said.child != 0
