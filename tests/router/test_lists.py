"""A real Router whose lists of callers are in files that change under it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.fakes import until
from tests.router.mesh import SESSION, error_of, send
from tests.router.process import ADA, EVE, town
from tests.router.upstream import READ, STAT, Script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.router.process import Town

pytestmark = pytest.mark.slow

AT_ONCE = 1.0


def write(path: Path, *ids: str) -> Path:
    """Put *ids* into *path* by one rename."""
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(f"{each}\n" for each in ids))
    return fresh.replace(path)


async def reading(net: Town, door: grpc.aio.Channel, session: str) -> Any:
    """Begin to read from the sandbox, which does not end by itself."""
    net.sandbox.script = Script(wait=True)
    call = send(door, READ, metadata=[(SESSION, session)], timeout=60)
    await net.sandbox.entered.wait()
    return call


async def denied(call: Any) -> None:
    """Return once *call* was denied, and told nothing else; at once."""
    async with asyncio.timeout(AT_ONCE):
        code, reason, _ = await error_of(call)
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "DENIED")
        assert await call.details() == "denied"


async def test_who_is_taken_off_the_list_is_out(tmp_path: Path) -> None:
    """Running calls end, in the sandbox too, and no new connection comes in."""
    ids = write(tmp_path / "ids", ADA)
    async with (
        town(tmp_path, "--client-ids-file", str(ids)) as net,
        net.door(ADA) as ada,
        net.door(EVE) as eve,
    ):
        call = await reading(net, ada, net.session().session_id)
        assert await send(eve, STAT).code() is grpc.StatusCode.UNAVAILABLE
        write(ids, EVE)
        await denied(call)
        assert (await net.logged("peer evicted"))["peer_id"] == ADA
        ended = await net.logged("call ended")
        assert (ended["reason"], ended["method"]) == ("not_admitted", READ)
        await until(lambda: net.sandbox.cancelled == 1)
        assert await send(ada, STAT).code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(AT_ONCE):  # the dialer keeps its last verdict
            while (await error_of(send(eve, STAT)))[1] != "SESSION_REQUIRED":
                pass


async def test_a_list_that_is_spoiled_is_not_used(tmp_path: Path) -> None:
    """The last good one stays; an empty one admits nobody, which is said."""
    ids = write(tmp_path / "ids", ADA)
    async with (
        town(tmp_path, "--client-ids-file", str(ids)) as net,
        net.door(ADA) as ada,
    ):
        call = await reading(net, ada, net.session().session_id)
        write(ids, EVE, "nonsense")
        kept = await net.logged("allowlist kept")
        assert (kept["reason"], kept["line"]) == ("malformed_line", 2)
        assert not call.done()
        write(ids)
        await denied(call)
        assert "admits nobody" in (await net.logged("door is closed"))["detail"]


async def test_who_is_administrator_no_more_ends_what_that_gave(tmp_path: Path) -> None:
    """Another one's session is left at once; the caller may come in as before."""
    ids = write(tmp_path / "ids", EVE)
    async with (
        town(tmp_path, "--admin-ids-file", str(ids)) as net,
        net.door(EVE) as eve,
    ):
        session = net.session(owner=ADA).session_id
        call = await reading(net, eve, session)
        write(ids, ADA)
        await denied(call)
        assert (await net.logged("peer evicted"))["reason"] == "not_admin"
        again = send(eve, STAT, metadata=[(SESSION, session)], timeout=20)
        assert (await error_of(again))[1] == "SESSION_NOT_YOURS"


async def test_a_list_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    """Nobody serves by a list that nobody could read."""
    missing = str(tmp_path / "gone")
    async with AsyncExitStack() as stack:
        with pytest.raises(AssertionError, match=f"{missing} does not exist"):
            await stack.enter_async_context(
                town(tmp_path, "--client-ids-file", missing)
            )
