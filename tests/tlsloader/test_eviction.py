"""Who may not stay: running calls end at once and with a reason, new ones are refused.

At the server the peer reads "denied", and we log why. At the client, which is our own
process, the calls that fail say whom we hung up on, and why.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from tests.fakes import FakeClock
from tests.forge import Forge
from tests.tlsloader.posing import Ear, posing
from tests.tlsloader.raw import DATA, GOAWAY, raw
from tests.tlsloader.transport import (
    PICOD,
    ROUTER,
    STRANGER,
    Mesh,
    RotatingSource,
    Way,
    hosted,
    mesh,
    until,
    way,
)
from tlsloader import Allowlist, Stay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BOTH_LOOPS = True

Code = grpc.StatusCode
AT_ONCE = 1.0
NOBODY = Allowlist()


def withdraw(source: RotatingSource, identity: str) -> None:
    """Have *source* trust another root than before, and only that."""
    source.publish(Forge().material(identity, generation=9))


class Running:
    """One call of each shape that runs, and would for ever."""

    def __init__(self, out: Way) -> None:
        opened: Any = out.channel
        self.both = out.both()
        self.down = out.down(0)
        self.up = opened.stream_unary("/test.Service/Up")(self._drip(), timeout=60)
        self.unary = opened.unary_unary("/test.Service/Wait")(b"x", timeout=60)

    async def _drip(self) -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    @property
    def calls(self) -> tuple[Any, ...]:
        return self.both, self.down, self.up, self.unary

    async def begin(self) -> None:
        """Return once both streams that answer have."""
        await self.both.write(b"x")
        assert await self.both.read() == b"x"
        assert await self.down.read() == bytes(65536)

    async def ends(self) -> list[tuple[grpc.StatusCode, str]]:
        """Return code and details of each, which must be there at once."""
        async with asyncio.timeout(AT_ONCE):
            # What is still on its way must be read before its end is
            with suppress(grpc.aio.AioRpcError):
                while await self.down.read() is not grpc.aio.EOF:
                    pass
            return [(await each.code(), await each.details()) for each in self.calls]


@asynccontextmanager
async def busy(**options: Any) -> AsyncIterator[tuple[Mesh, Running]]:
    """Run a mesh with one call of each shape under way."""
    async with mesh(**options) as one:
        running = Running(one.way)
        await running.begin()
        await until(lambda: one.node.service.running == len(running.calls))
        yield one, running


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [vars(each) for each in caplog.records if each.message == name]


EVICTIONS: dict[str, Callable[[Mesh], None]] = {
    "not_admitted": lambda one: one.node.acceptor.change_allowlist(
        Allowlist.parse(STRANGER)
    ),
    "unknown_trust_domain": lambda one: one.node.acceptor.change_allowlist(NOBODY),
    "untrusted_chain": lambda one: withdraw(one.node.source, PICOD),
}


@pytest.mark.slow
@pytest.mark.parametrize("reason", EVICTIONS)
async def test_running_calls_of_an_evicted_peer_are_denied(
    reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All shapes, at once; their handlers are cancelled, and the connection is gone."""
    async with busy() as (one, running):
        service, acceptor = one.node.service, one.node.acceptor
        EVICTIONS[reason](one)
        assert await running.ends() == [(Code.PERMISSION_DENIED, "denied")] * 4
        await until(lambda: service.running == 0, AT_ONCE)
        await until(lambda: acceptor.connections == 0, AT_ONCE)
        assert acceptor.tally.evictions == {reason: 1}
        assert one.node.gate.refusals == {reason: 4}
        assert not acceptor.refusals
    (evicted,) = events(caplog, "peer evicted")
    assert (evicted["reason"], evicted["peer_id"]) == (reason, ROUTER)
    ended = events(caplog, "call ended")
    assert {each["method"] for each in ended} == {
        f"/test.Service/{name}" for name in ("Both", "Down", "Up", "Wait")
    }
    assert {each["reason"] for each in ended} == {reason}
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_the_others_stay() -> None:
    """Who is still on the list does not notice that the list is new."""
    forge = Forge()
    both = f"{ROUTER},{STRANGER}"
    async with (
        hosted(forge.source(PICOD), allow=both) as node,
        way(forge.source(ROUTER), node.address) as one,
        way(forge.source(STRANGER), node.address) as other,
    ):
        streams = one.both(), other.both()
        for stream in streams:
            await stream.write(b"x")
            assert await stream.read() == b"x"
        node.acceptor.change_allowlist(Allowlist.parse(STRANGER))
        assert await streams[0].code() is Code.PERMISSION_DENIED
        await streams[1].write(b"y")
        assert await streams[1].read() == b"y"
        assert (await one.refusal()).code() is Code.UNAVAILABLE
        assert await other.call() == b"hello"


@pytest.mark.slow
async def test_a_crowd_is_judged_a_few_at_a_time() -> None:
    """A new root is verified for each peer, and the loop turns all the while."""
    forge = Forge()
    source = RotatingSource(forge.material(PICOD))
    async with hosted(source) as node, AsyncExitStack() as stack:
        svid, crowd = forge.svid(ROUTER), 40
        for _ in range(crowd):
            client = await stack.enter_async_context(raw(node.address, svid))
            await client.heard(DATA, client.call())
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while node.acceptor.tally.evictions.total() < crowd:
                await asyncio.sleep(0)  # noqa: TID251 -- one turn of the loop
                turns += 1

        async with asyncio.timeout(AT_ONCE):
            withdraw(source, PICOD)
            await turn()
        assert turns > 1


async def test_a_handler_that_takes_its_time_delays_nobody() -> None:
    """The caller has its status first; what the handler still says comes too late."""
    async with busy() as (one, running):
        one.node.service.stubborn = True
        one.node.acceptor.change_allowlist(NOBODY)
        assert await running.ends() == [(Code.PERMISSION_DENIED, "denied")] * 4


async def test_a_handler_that_ends_by_a_fault_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it raises instead of being cancelled is in our log, as ever."""
    async with busy() as (one, running):
        one.node.service.angry = True
        one.node.acceptor.change_allowlist(NOBODY)
        assert await running.ends() == [(Code.PERMISSION_DENIED, "denied")] * 4
        await until(lambda: len(events(caplog, "handler failed")) == 4)


@pytest.mark.slow
async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    """Its status waits behind what it has not read: the connection does not."""
    async with busy() as (one, running):
        await until(lambda: one.node.service.sent > 1)
        one.node.acceptor.change_allowlist(NOBODY)
        await until(lambda: one.node.acceptor.connections == 0, AT_ONCE)
        await until(lambda: one.node.service.running == 0, AT_ONCE)
        running.down.cancel()


async def test_without_a_gate_the_connection_is_cut_at_once() -> None:
    """Nobody can end its calls with a status, so they do not go on without."""
    async with mesh() as one:
        one.node.acceptor._guests.calls = None
        stream = one.way.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        one.node.acceptor.change_allowlist(NOBODY)
        async with asyncio.timeout(AT_ONCE):
            assert await stream.code() is Code.UNAVAILABLE


@pytest.mark.slow
async def test_an_evicted_peer_gets_no_further_call() -> None:
    """Not even in the moment in which it is seen off."""
    forge = Forge()
    async with (
        hosted(forge.source(PICOD)) as node,
        raw(node.address, forge.svid(ROUTER)) as client,
    ):
        await client.heard(DATA, client.call("Echo"))
        waiting = client.call("Wait")
        await until(lambda: node.service.waiting)
        (carried,) = node.acceptor._guests
        node.acceptor.change_allowlist(NOBODY)
        client.call("Echo")
        frames = await client.ended()
        assert not [each for each in frames if each.kind == DATA]
        assert b"denied" in b"".join(f.payload for f in frames if f.stream == waiting)
        assert node.service.calls == 2
        assert carried.evicted is not None


async def test_the_end_of_a_leaf_ends_no_running_call() -> None:
    """Neither side's: only new calls are refused. Source: design, section 4."""
    clock = FakeClock()
    forge = Forge(now=clock.now())
    async with (
        hosted(forge.source(PICOD), clock=clock) as node,
        way(forge.source(ROUTER), node.address, clock=clock) as out,
    ):
        stream = out.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        clock.jump(7200)
        node.acceptor.change_allowlist(Allowlist.parse(ROUTER))
        await stream.write(b"y")
        assert await stream.read() == b"y"
        assert not node.acceptor.tally.evictions
        assert (await out.refusal()).code() is Code.PERMISSION_DENIED


async def test_each_call_is_judged_by_the_clock_as_it_is() -> None:
    """On one connection: past the peer's end, before its day, and in its time again."""
    clock = FakeClock()
    forge = Forge(now=clock.now())
    own = forge.source(PICOD, age=86_400, life=86_400)
    peer = forge.source(ROUTER, age=3600, life=7200)
    async with (
        hosted(own, clock=clock) as node,
        way(peer, node.address, clock=FakeClock()) as out,
    ):
        await out.served()
        for seconds in (10_000, -10_000):
            clock.set_wall(seconds)
            assert (await out.refusal()).code() is Code.PERMISSION_DENIED
            clock.set_wall(-seconds)
            await out.served()
        assert node.acceptor.tally.denials == {"expired": 1, "not_yet_valid": 1}
        assert out.dialer.connections == 1


async def test_calls_fail_by_the_name_of_whom_we_hung_up_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All shapes, at once, at a client whose server lost its root."""
    async with busy() as (one, running):
        withdraw(one.source, ROUTER)
        ends = await running.ends()
        assert {code for code, _ in ends} == {Code.UNAVAILABLE}
        for _, details in ends:
            assert f"hung up on {PICOD}" in details
            assert "it does not lead to its trust bundle" in details
        await until(lambda: one.way.dialer.connections == 0, AT_ONCE)
        assert one.way.dialer.tally.evictions == {"untrusted_chain": 1}
    (evicted,) = events(caplog, "server evicted")
    assert (evicted["reason"], evicted["expected"]) == ("untrusted_chain", PICOD)


async def test_after_a_rotation_the_newest_reason_is_told() -> None:
    """An old connection that was asked to leave still says why it is cut in the end."""
    async with mesh() as one:
        stream = one.way.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        one.rotate()
        await stream.write(b"y")
        assert await stream.read() == b"y"
        withdraw(one.source, ROUTER)
        async with asyncio.timeout(AT_ONCE):
            assert f"hung up on {PICOD}" in (await stream.details() or "")


async def test_a_root_withdrawn_while_we_dial_is_no_connection() -> None:
    """What was proven when the dial began need not be when it ends."""
    forge = Forge()
    source = RotatingSource(forge.material(ROUTER))
    met, late = asyncio.Event(), asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set()
        await late.wait()
        await Ear()(reader, writer)

    async with (
        posing(forge.svid(PICOD), speak) as address,
        way(source, address) as out,
    ):
        calling = asyncio.ensure_future(out.refusal())
        await met.wait()
        withdraw(source, ROUTER)
        late.set()
        assert f"not proven to be {PICOD}" in str((await calling).details())
        assert out.dialer.connections == 0


@pytest.mark.slow
async def test_who_ignores_goaway_is_ended() -> None:
    """A connection that makes ever new calls does not outlive a rotation for ever."""
    forge = Forge()
    source = RotatingSource(forge.material(PICOD))
    async with (
        hosted(source, stay=Stay(idle=0.2)) as node,
        raw(node.address, forge.svid(ROUTER)) as client,
    ):
        await client.heard(DATA, client.call())
        client.call("Wait")
        await until(lambda: node.service.waiting)
        source.publish(forge.material(PICOD, generation=2))
        await client.heard(GOAWAY)
        served = 0
        try:
            while True:
                await client.heard(DATA, client.call())
                served += 1
        except EOFError:
            pass
        assert served  # in time they are still
        assert node.acceptor.tally.evictions == {"goaway_ignored": 1}
        assert set(node.gate.refusals) == {"goaway_ignored"}


async def test_who_ignores_goaway_and_does_nothing_is_ended() -> None:
    """An old connection without a call takes no place for ever, either."""
    forge = Forge()
    source = RotatingSource(forge.material(PICOD))
    async with (
        hosted(source, stay=Stay(idle=0.1)) as node,
        raw(node.address, forge.svid(ROUTER)) as client,
    ):
        await client.heard(DATA, client.call())
        source.publish(forge.material(PICOD, generation=2))
        assert [each.kind for each in await client.ended()][-1] == GOAWAY
        assert node.acceptor.tally.drains == 1
        assert not node.acceptor.tally.evictions


@pytest.mark.slow
@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_running_call_keeps_an_old_connection(side: str) -> None:
    """As long as streams may take; then both ends know an end."""
    forge = Forge()
    theirs = RotatingSource(forge.material(PICOD))
    mine = RotatingSource(forge.material(ROUTER))
    short, long = Stay(idle=0.05, busy=0.5), Stay()
    at_server = side == "server"
    async with (
        hosted(theirs, stay=short if at_server else long) as node,
        way(mine, node.address, stay=long if at_server else short) as out,
    ):
        stream = out.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        loop = asyncio.get_running_loop()
        start = loop.time()
        source, identity = (theirs, PICOD) if at_server else (mine, ROUTER)
        source.publish(forge.material(identity, generation=2))
        async with asyncio.timeout(5):
            assert await stream.code() is Code.UNAVAILABLE
        assert loop.time() - start > 0.4
        tally = node.acceptor.tally if at_server else out.dialer.tally
        assert tally.evictions == {"too_old": 1}
        assert await out.call() == b"hello"
