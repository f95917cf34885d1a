"""The same job on servers of others, and on our own by its SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks._case import At
from benchmarks._e2b import E2B, E2BError
from benchmarks._foreign import foreign_cases
from benchmarks._servers import WrongResultError
from tests.benchmarks.e2b import KEY, FakeE2B, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks._servers import Work


pytestmark = pytest.mark.slow


@pytest.fixture
def fake() -> FakeE2B:
    return FakeE2B()


@pytest.fixture
async def server(fake: FakeE2B) -> AsyncIterator[E2B]:
    async with (
        serving(fake) as url,
        E2B.opened(url, KEY, sandbox_url=url, template="base") as opened,
    ):
        yield opened


async def test_speaks_as_the_sdk_of_e2b_does(server: E2B, fake: FakeE2B) -> None:
    """A sandbox is made, used by command and by code, and ended."""
    box = await server.create()
    await box.execute()
    await box.run_code()
    assert fake.started == [
        {"cmd": "/bin/bash", "args": ["-l", "-c", "echo 2"], "envs": {}}
    ]
    assert await box.made_ahead() is None
    await box.destroy()
    assert not fake.alive


async def test_another_result_is_no_result(server: E2B, fake: FakeE2B) -> None:
    """A server that answers fast but wrong is not measured."""
    fake.output, fake.result = [b"3\n"], "3"
    box = await server.create()
    for work in (box.execute, box.run_code):
        with pytest.raises(WrongResultError, match="3"):
            await work()


async def test_a_refusal_is_told_in_the_servers_words(
    server: E2B, fake: FakeE2B
) -> None:
    """At the end of a stream, and by status."""
    fake.refusal = {"code": "not_found", "message": "no such user"}
    box = await server.create()
    with pytest.raises(E2BError, match="not_found: no such user"):
        await box.execute()
    await box.destroy()
    with pytest.raises(E2BError, match="404"):
        await box.destroy()


async def test_the_key_is_shown(fake: FakeE2B) -> None:
    """Without it nothing is made."""
    async with serving(fake) as url, E2B.opened(url, "wrong") as server:
        with pytest.raises(E2BError, match="401"):
            await server.create()


@pytest.mark.parametrize("work", ["execute", "run_code"])
@pytest.mark.parametrize("at_once", ["serial", "8"])
async def test_any_server_can_be_measured(
    server: E2B, fake: FakeE2B, work: Work, at_once: str
) -> None:
    """The cases are those of our own mesh, and every sandbox that was made is ended."""
    cases = {each.name: each for each in foreign_cases(server, [at_once])}
    found = await cases[f"create/{work}/{at_once}"].run(At("quick"))
    assert len(found["latency"].samples) >= 5
    assert fake.created >= len(found["latency"].samples)
    assert not fake.alive


async def test_sandboxes_of_failed_work_are_ended(server: E2B, fake: FakeE2B) -> None:
    """What goes wrong leaves nothing behind."""
    fake.output = [b"3\n"]
    (one, *_) = foreign_cases(server, ["8"])
    with pytest.raises(WrongResultError):
        await one.run(At("quick"))
    assert fake.created
    assert not fake.alive
