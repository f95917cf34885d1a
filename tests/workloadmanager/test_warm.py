"""Real sandboxes that wait for a session, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import psutil
import pytest

from auth import PRINCIPAL_METADATA
from cubemesh.v1 import picod_pb2
from tests.processes import logging_into
from tests.workloadmanager.engine import until
from tests.workloadmanager.local import PRINCIPAL, Ground
from tests.workloadmanager.test_local import SECRET, gone, opened, order, processes
from workloadmanager._demand import Bounds, Capacity
from workloadmanager._picod import Place
from workloadmanager._values import Start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workloadmanager._engine import Sandbox
    from workloadmanager._sessions import Sessions

pytestmark = pytest.mark.slow

ONE = Capacity(100, Bounds(1, 1))
METADATA = ((PRINCIPAL_METADATA, PRINCIPAL.encode()),)


@pytest.fixture
def ground() -> Iterator[Ground]:
    ground = Ground()
    yield ground
    for process in logging_into(ground.folder):
        process.kill()
    ground.remove()


async def waiting(sessions: Sessions) -> tuple[Sandbox, psutil.Process]:
    """Return the sandbox that waits, once it does, and its PicoD."""
    await until(lambda: sum(sessions.pools.ready.values()))
    ready = sessions.pools._pools["python"].ready[0]
    mark = Place.read(ready.sandbox_id, ready.record).mark
    assert mark is not None
    return ready, psutil.Process(mark.pid)


async def test_a_sandbox_that_waited_serves_its_session(ground: Ground) -> None:
    """With the session's own environment, and proven by the identity it waited with."""
    async with opened(ground, capacity=ONE) as sessions:
        ready, picod = await waiting(sessions)
        made = await sessions.create(order(environment=SECRET))
        assert made.start is Start.WARM
        assert (made.sandbox_id, made.spiffe_id) == (ready.sandbox_id, ready.spiffe_id)
        assert processes(made)[0].pid == picod.pid
        output = await ground.run(made, "sh", "-c", "echo $TOKEN")
        assert output == ("s3cret-of-the-session\n", 0)
        next_one, _ = await waiting(sessions)
        assert next_one.sandbox_id != made.sandbox_id


async def test_a_sandbox_without_a_session_serves_nobody(ground: Ground) -> None:
    """Not even the Router: there is nobody whose call it could be."""
    async with opened(ground, capacity=ONE) as sessions:
        ready, _ = await waiting(sessions)
        async with ground.picod(ready.address, ready.spiffe_id) as stub:
            call = stub.Execute(
                picod_pb2.ExecuteRequest(argv=["true"]), metadata=METADATA, timeout=20
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [_ async for _ in call]
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_sandbox_that_does_not_answer_is_not_handed_out(
    ground: Ground,
) -> None:
    """It is killed after two seconds, and the session has another, made for it."""
    async with opened(ground, capacity=ONE) as sessions:
        ready, picod = await waiting(sessions)
        picod.suspend()
        made = await sessions.create(order(environment=SECRET))
        assert made.start is Start.COLD
        assert made.sandbox_id != ready.sandbox_id
        await gone(picod)
        assert await ground.run(made, "echo", "hi") == ("hi\n", 0)


async def test_a_sandbox_that_was_killed_is_not_handed_out(ground: Ground) -> None:
    """Whether that has been noticed already or not."""
    async with opened(ground, capacity=ONE) as sessions:
        _, picod = await waiting(sessions)
        picod.kill()
        made = await sessions.create(order())
        assert made.start is Start.COLD
        assert await ground.run(made, "echo", "hi") == ("hi\n", 0)


async def test_nothing_that_waited_outlives_the_service(ground: Ground) -> None:
    """It ends with the service; sessions live on."""
    async with opened(ground, capacity=Capacity(100, Bounds(2, 2))) as sessions:
        await until(lambda: sum(sessions.pools.ready.values()) == 2)
        made = await sessions.create(order())
    assert ground.left() == [made.sandbox_id]
    assert len(logging_into(ground.plan.logs)) == 1
