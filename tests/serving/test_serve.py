"""A service starts whole, ends in order, and never loses why it ended."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from serving import (
    Health,
    Hosted,
    ListenError,
    announce,
    new_server,
    serve,
    stop_on_signals,
)
from tests.fakes import running
from tests.serving.conftest import Handlers, call
from tlsloader import UnixAcceptor

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    Context = grpc.aio.ServicerContext[Any, Any]


class SlowEcho:
    """Answer b"slow" only when told to, and tell when it was reached or cancelled."""

    def __init__(self) -> None:
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request: bytes, context: Context) -> bytes:
        del context
        if request == b"slow":
            self.reached.set()
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return request


@dataclass
class House:
    """One service on a free port, with all that a test looks at."""

    echo: SlowEcho = field(default_factory=SlowEcho)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    health: Health = field(default_factory=Health)
    addresses: Sequence[str] = ()

    def hosted(self, listen: str = "127.0.0.1:0", acceptor: Any = None) -> Hosted:
        server = new_server(health=self.health)

        async def unary(request: bytes, context: Context) -> bytes:
            return await self.echo(request, context)

        server.add_generic_rpc_handlers((Handlers(unary),))
        return Hosted(server, listen, acceptor)

    def serve(
        self,
        *hosted: Hosted,
        jobs: Sequence[Coroutine[Any, Any, Any]] = (),
        grace: float = 5.0,
    ) -> Coroutine[Any, Any, None]:
        return serve(
            *hosted,
            jobs=jobs,
            stop=self.stop,
            health=self.health,
            grace=grace,
            ready=self.ready,
        )

    def ready(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self.up.set()

    def channel(self, at: int = 0) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.addresses[at])


@dataclass
class Recorder:
    """A door that only writes down what is asked of it."""

    log: list[str]
    fault: Exception | None = None
    backend: str = "127.0.0.1:0"

    async def start(self, listen: str) -> str:
        self.log.append("start")
        if self.fault is not None:
            raise self.fault
        return listen

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109
        del timeout
        self.log.append("drain")

    async def aclose(self) -> None:
        self.log.append("aclose")


class BoomError(Exception):
    pass


async def failing_after(event: asyncio.Event) -> None:
    await event.wait()
    raise BoomError


async def forever(log: list[str]) -> None:
    log.append("job begins")
    try:
        await asyncio.Event().wait()
    finally:
        log.append("job ends")


async def test_serves_all_doors_until_told_to_stop(tmp_path: Path) -> None:
    """Two servers, one behind a real door, are reached where `ready` says."""
    house = House()
    door = UnixAcceptor(name="control")
    path = tmp_path / "c.sock"
    hosted = house.hosted(), house.hosted(f"unix:{path}", door)
    async with running(house.serve(*hosted)):
        await house.up.wait()
        assert not house.addresses[0].endswith(":0")
        for at in (0, 1):
            async with house.channel(at) as channel:
                assert await call(channel, b"x") == b"x"
        assert house.health.ready
        house.stop.set()
    assert not path.exists()


async def test_the_order_of_the_end() -> None:
    """Doors open after the jobs began; peers go, then doors close, then jobs end."""
    house, log = House(), list[str]()
    task = asyncio.ensure_future(
        house.serve(house.hosted(acceptor=Recorder(log)), jobs=[forever(log)])
    )
    async with asyncio.timeout(5):
        await house.up.wait()
        house.stop.set()
        await task
    assert sorted(log[:2]) == ["job begins", "start"]
    assert log[2:] == ["drain", "aclose", "job ends"]


async def test_running_calls_get_their_grace() -> None:
    """A call that ends within the grace succeeds, though the service is going."""
    house = House()
    async with running(house.serve(house.hosted())), asyncio.timeout(5):
        await house.up.wait()
        async with house.channel() as channel:
            slow = asyncio.ensure_future(call(channel, b"slow"))
            await house.echo.reached.wait()
            house.stop.set()
            async for status in house.health.watch(""):
                if not house.health.ready:
                    assert status
                    break
            house.echo.released.set()
            assert await slow == b"slow"


async def test_after_the_grace_calls_are_cancelled() -> None:
    """A call that never ends cannot keep the service from ending."""
    house = House()
    task = asyncio.ensure_future(house.serve(house.hosted(), grace=0.05))
    async with asyncio.timeout(5):
        await house.up.wait()
        async with house.channel() as channel:
            slow = asyncio.ensure_future(call(channel, b"slow"))
            await house.echo.reached.wait()
            house.stop.set()
            await task
            await house.echo.cancelled.wait()
            with pytest.raises(grpc.aio.AioRpcError):
                await slow


async def test_a_failing_job_ends_the_service_in_order() -> None:
    """Its exception comes out as it was, after the others had an orderly end."""
    house, log = House(), list[str]()
    jobs = [failing_after(house.up), forever(log)]
    async with asyncio.timeout(5):
        with pytest.raises(BoomError):
            await house.serve(house.hosted(acceptor=Recorder(log)), jobs=jobs)
    assert log[-3:] == ["drain", "aclose", "job ends"]


async def test_several_failures_are_all_told() -> None:
    """No failure hides another one."""
    house = House()
    jobs = [failing_after(house.up), failing_after(house.up)]
    async with asyncio.timeout(5):
        with pytest.raises(ExceptionGroup) as caught:
            await house.serve(house.hosted(), jobs=jobs)
    assert [type(each) for each in caught.value.exceptions] == [BoomError, BoomError]


async def test_a_job_that_ends_by_itself_is_no_failure() -> None:
    """A one-off job may be done while the service goes on."""
    house = House()

    async def once() -> None:
        await house.up.wait()

    async with running(house.serve(house.hosted(), jobs=[once()])):
        await house.up.wait()
        async with house.channel() as channel:
            assert await call(channel, b"x") == b"x"
        house.stop.set()


async def test_a_door_that_cannot_open_closes_everything() -> None:
    """The failure comes out plain, and what was open before is closed again."""
    house, log = House(), list[str]()
    good, bad = Recorder(log), Recorder([], fault=OSError(98, "in use"))
    hosted = house.hosted(acceptor=good), house.hosted("host:1", acceptor=bad)
    with pytest.raises(ListenError, match="host:1: address already in use"):
        await house.serve(*hosted, jobs=[forever(log)])
    assert log[-2:] == ["aclose", "job ends"]
    assert bad.log == ["start", "aclose"]


async def test_two_services_cannot_share_a_port() -> None:
    """The second one is told, instead of taking half of the calls in silence."""
    first, second = House(), House()
    async with running(first.serve(first.hosted())):
        await first.up.wait()
        with pytest.raises(ListenError, match="cannot listen on"):
            await second.serve(second.hosted(first.addresses[0]))
        first.stop.set()


async def test_two_doors_cannot_share_a_socket(tmp_path: Path) -> None:
    """A living Unix socket is nobody else's to take."""
    first, second = House(), House()
    listen = f"unix:{tmp_path}/x.sock"
    async with running(first.serve(first.hosted(listen, UnixAcceptor(name="a")))):
        await first.up.wait()
        with pytest.raises(ListenError, match="address already in use"):
            await second.serve(second.hosted(listen, UnixAcceptor(name="b")))
        async with first.channel() as channel:
            assert await call(channel, b"x") == b"x"
        first.stop.set()


async def test_the_first_signal_stops_and_is_told() -> None:
    """The service ends in order and knows which signal it was."""
    house = House()
    async with asyncio.timeout(5):
        with stop_on_signals(house.stop) as received:
            task = asyncio.ensure_future(house.serve(house.hosted()))
            await house.up.wait()
            os.kill(os.getpid(), signal.SIGINT)
            await task
    assert received == [signal.SIGINT]


async def test_a_second_signal_ends_at_once() -> None:
    """Whoever presses Ctrl-C twice does not wait for the grace, and nothing leaks."""
    house, log = House(), list[str]()

    async def service() -> None:
        with stop_on_signals(house.stop):
            await house.serve(house.hosted(), jobs=[forever(log)], grace=60)

    async with asyncio.timeout(5):
        task = asyncio.ensure_future(service())
        await house.up.wait()
        async with house.channel() as channel:
            slow = asyncio.ensure_future(call(channel, b"slow"))
            await house.echo.reached.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await house.stop.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(asyncio.CancelledError):
                await task
            await house.echo.cancelled.wait()
            with pytest.raises(grpc.aio.AioRpcError):
                await slow
    assert log == ["job begins", "job ends"]


async def test_a_failure_survives_a_second_signal() -> None:
    """Being cut short does not make a failed service look merely interrupted."""
    house = House()
    jobs = [failing_after(house.up)]
    async with asyncio.timeout(5):
        task = asyncio.ensure_future(house.serve(house.hosted(), jobs=jobs, grace=60))
        await house.up.wait()
        async with house.channel() as channel:
            slow = asyncio.ensure_future(call(channel, b"slow"))
            await house.stop.wait()
            task.cancel()
            with pytest.raises(BoomError):
                await task
            with pytest.raises(grpc.aio.AioRpcError):
                await slow


def test_the_ready_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever started the service reads one line and knows where it listens."""
    announce(listen="127.0.0.1:1", metrics="127.0.0.1:2")
    line = '{"ready": true, "listen": "127.0.0.1:1", "metrics": "127.0.0.1:2"}\n'
    assert capsys.readouterr().out == line
