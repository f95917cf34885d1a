"""Sandboxes that wait for a session are dialled, and nothing else is done to them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from tests.fakes import until
from tests.router.manager import session_id
from tests.router.mesh import SANDBOX, Mesh, error_of, mesh

if TYPE_CHECKING:
    from pathlib import Path

STAT = "/cubemesh.v1.PicoD/Stat"
EXECUTE = "/cubemesh.v1.PicoD/Execute"


async def dialled(net: Mesh, number: int) -> None:
    """Return once so many lines are open ahead of their sessions."""
    await until(lambda: len(net.house.ahead) == number)


def doors(net: Mesh, *names: str) -> list[tuple[str, str]]:
    return [(net.manager.address, f"{SANDBOX}{name}") for name in names]


async def test_the_first_call_of_a_session_finds_its_line_open(tmp_path: Path) -> None:
    """What was dialled for its sandbox is the session's now; none is dialled anew."""
    async with mesh(tmp_path, ahead=4) as net:
        net.manager.tell_waiting(*doors(net, "", "b"))
        await dialled(net, 2)
        session = net.manager.add()
        net.manager.tell_waiting(*doors(net, "b"))
        for _ in range(2):
            await net.ask(STAT, session.session_id)
        assert net.way.lines == 2
        assert net.house.ahead.taken == 1
        assert len(net.house.ahead) == 1
        other = net.manager.add(spiffe_id=f"{SANDBOX}c")
        await net.ask(STAT, other.session_id)
        assert net.way.lines == 3


async def test_a_sandbox_is_connected_to_before_it_has_a_session(
    tmp_path: Path,
) -> None:
    """The connection is there, and says no more than that it speaks HTTP/2."""
    came: asyncio.Queue[bytes] = asyncio.Queue()

    async def door(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.put_nowait(await reader.readexactly(24))
        writer.close()

    path = f"{tmp_path}/door"
    async with (
        await asyncio.start_unix_server(door, path),
        mesh(tmp_path, ahead=1) as net,
    ):
        net.manager.tell_waiting((f"unix:{path}", SANDBOX))
        assert await came.get() == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def test_no_call_reaches_a_sandbox_that_has_no_session(tmp_path: Path) -> None:
    """However it is named: only a session that is known to be ready leads there."""
    async with mesh(tmp_path, ahead=1) as net:
        net.manager.tell_waiting(*doors(net, ""))
        await dialled(net, 1)
        for name in (session_id(7), "sbx-" + "a" * 26, SANDBOX, net.manager.address):
            call = net.call(STAT, x_agentcube_session_id=name)
            assert (await error_of(call))[1] == "SESSION_NOT_FOUND"
        assert (await error_of(net.call(EXECUTE)))[1] == "SESSION_REQUIRED"
        starting = net.manager.add(state=1)
        call = net.call(STAT, x_agentcube_session_id=starting.session_id)
        code, reason, _ = await error_of(call)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SANDBOX_UNREACHABLE")
        assert not net.sandbox.entered.is_set()
        assert len(net.house.ahead) == 1


async def test_no_more_are_dialled_than_may_be(tmp_path: Path) -> None:
    """A line that is taken makes place for another."""
    async with mesh(tmp_path, ahead=2) as net:
        net.manager.tell_waiting(*doors(net, "", "b", "c"))
        await dialled(net, 2)
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        await dialled(net, 2)
        assert net.way.lines == 3


async def test_what_nobody_uses_is_closed(tmp_path: Path) -> None:
    """Its sandbox has another Router's session, or is gone."""
    async with mesh(tmp_path, ahead=2) as net:
        net.manager.tell_waiting(*doors(net, "", "b"))
        await dialled(net, 2)
        net.manager.tell_waiting(*doors(net, "b"))
        await until(lambda: net.house.ahead._left)
        for _ in range(4):
            await net.clock.advance(5)
            net.manager.beat()
            await until(lambda: not net.house.locator.silence)
        await dialled(net, 1)
        await net.way.closed.wait()
        net.manager.tell_waiting()
        net.manager.tell_waiting(*doors(net, "c", "d"))  # who waits comes first
        await until(lambda: net.way.lines == 4)
        await dialled(net, 2)


async def test_nothing_is_dialled_ahead_where_nobody_wants_it(tmp_path: Path) -> None:
    """`--dial-ahead 0`."""
    async with mesh(tmp_path, ahead=0) as net:
        net.manager.tell_waiting(*doors(net, "", "b"))
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        assert (net.way.lines, net.house.ahead.taken) == (1, 0)


async def test_a_sandbox_that_cannot_be_dialled_harms_nobody(tmp_path: Path) -> None:
    """It is tried once, and again by the first call."""
    async with mesh(tmp_path, ahead=2) as net:
        net.way.broken = True
        net.manager.tell_waiting(*doors(net, ""))
        await until(lambda: net.way.lines == 1)
        net.way.broken = False
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        assert net.way.lines == 2
