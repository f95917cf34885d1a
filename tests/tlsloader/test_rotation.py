"""New keys, new roots and the end of leaves, while calls run."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from tests.forge import Forge
from tests.tlsloader.transport import (
    PICOD,
    ROUTER,
    Mesh,
    RotatingSource,
    Way,
    hosted,
    mesh,
    until,
    way,
)
from tlsloader import Material

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOTH_LOOPS = True


class Load:
    """Calls of every kind, counted."""

    def __init__(self) -> None:
        self.served = 0
        self.failed: list[grpc.aio.AioRpcError] = []
        self.stop = asyncio.Event()

    async def call(self, out: Way) -> None:
        while not self.stop.is_set():
            try:
                await out.call(message=b"x" * 100)
                self.served += 1
            except grpc.aio.AioRpcError as error:
                self.failed.append(error)

    async def talk(self, out: Way) -> None:
        """Keep one stream for the whole time."""
        stream = out.both()
        try:
            while not self.stop.is_set():
                await stream.write(b"ping")
                assert await stream.read() == b"ping"
                self.served += 1
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            self.failed.append(error)

    async def read(self, out: Way) -> None:
        """Read bulk, again and again."""
        while not self.stop.is_set():
            stream = out.down(40)
            try:
                assert sum([len(chunk) async for chunk in stream]) == 40 * 65536
                self.served += 1
            except grpc.aio.AioRpcError as error:
                self.failed.append(error)


@asynccontextmanager
async def loaded(out: Way, callers: int = 8) -> AsyncIterator[Load]:
    """Run callers, one long stream and one bulk reader while the block runs."""
    load = Load()
    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(load.call(out))
        group.create_task(load.talk(out))
        group.create_task(load.read(out))
        try:
            yield load
        finally:
            load.stop.set()


@pytest.mark.slow
async def test_50_rotations_under_load_fail_no_call() -> None:
    """Unary calls, a stream that outlives them all and bulk reads: 0 failed."""
    async with mesh() as one:
        async with loaded(one.way) as load:
            for _ in range(50):
                seen = load.served
                await until(lambda: load.served > seen + 10)  # noqa: B023
                one.rotate()
        assert not load.failed
        assert one.generation == 51
        assert not one.node.acceptor.refusals
        await until(lambda: one.node.acceptor.connections <= 2)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["client", "server"])
async def test_one_side_rotates_alone(side: str) -> None:
    """Either end takes its own new identity without the other's help."""
    async with mesh() as one:
        source, identity = {
            "client": (one.source, ROUTER),
            "server": (one.node.source, PICOD),
        }[side]
        async with loaded(one.way, callers=2) as load:
            for generation in range(2, 8):
                seen = load.served
                await until(lambda: load.served > seen + 5)  # noqa: B023
                source.publish(one.forge.material(identity, generation=generation))
        assert not load.failed


@pytest.mark.slow
async def test_a_rotation_during_each_dial_hangs_no_call() -> None:
    """The channel must not see a GOAWAY before it uses the connection."""
    async with mesh() as one:
        for generation in range(2, 42):
            calling = asyncio.ensure_future(one.way.call())
            await until(lambda: one.way.dialer._inlet._tasks or calling.done())  # noqa: B023
            one.source.publish(one.forge.material(ROUTER, generation=generation))
            async with asyncio.timeout(5):
                assert await calling == b"hello"


async def test_new_calls_take_the_new_identity_and_old_streams_go_on() -> None:
    """A stream outlives two generations; a call after each shows the newest leaf."""
    leaves: list[str] = []
    forge = Forge()
    source = RotatingSource(forge.material(PICOD))
    async with (
        hosted(source) as node,
        way(
            forge.source(ROUTER),
            node.address,
            on_connected=lambda peer: leaves.append(peer.leaf_sha256),
        ) as out,
    ):
        stream = out.both()
        for generation in (2, 3):
            await stream.write(b"x")
            assert await stream.read() == b"x"
            fresh = forge.material(PICOD, generation=generation)
            source.publish(fresh)

            async def shown(fresh: Material = fresh) -> None:
                while not leaves or leaves[-1] != fresh.leaf_sha256:
                    await out.call()

            async with asyncio.timeout(5):
                await shown()
        await stream.write(b"y")
        assert await stream.read() == b"y"
        stream.cancel()
    assert len(set(leaves)) == 3


async def test_a_client_alone_shows_its_new_leaf() -> None:
    """It leaves its old connection by itself; a server that does not rotate sees it."""
    async with mesh() as one:
        assert await one.way.call() == b"hello"
        fresh = one.forge.material(ROUTER, generation=2)
        one.source.publish(fresh)

        def shown() -> set[str]:
            carried = one.node.acceptor._guests
            return {each.peer.leaf_sha256 for each in carried if each.peer}

        async with asyncio.timeout(5):
            while fresh.leaf_sha256 not in shown():
                assert await one.way.call() == b"hello"


def reissued(one: Mesh, new: Forge, identity: str, *trusted: Forge) -> Material:
    """Make *identity* of the new authority's, trusting the roots of *trusted*."""
    one.generation += 1
    svid = new.svid(identity)
    return Material.parse(
        key=svid.key,
        chain=svid.chain,
        bundle=b"".join(each.bundle for each in trusted),
        now=new.now,
        generation=one.generation,
    )


@pytest.mark.slow
async def test_a_new_authority_takes_over_without_a_failed_call() -> None:
    """Trust both, sign by the new one, drop the old one: three rotations, 0 failed."""
    async with mesh() as one:
        old, new = one.forge, Forge()
        # Without key identifiers, OpenSSL tells roots apart by their names
        new.root = new.signer(subject="the next CA")
        steps = [(old, (old, new)), (new, (old, new)), (new, (new,))]
        async with loaded(one.way, callers=2) as load:
            for signer, trusted in steps:
                seen = load.served
                await until(lambda: load.served > seen + 20)  # noqa: B023
                if trusted == (new,):
                    # Streams of the old root end with it: let them end first
                    break
                theirs = reissued(one, signer, PICOD, *trusted)
                one.node.source.publish(theirs)
                one.source.publish(reissued(one, signer, ROUTER, *trusted))
        assert not load.failed
        one.node.source.publish(reissued(one, new, PICOD, new))
        one.source.publish(reissued(one, new, ROUTER, new))
        assert await one.way.call("Caller") == ROUTER.encode()


@pytest.mark.slow
@pytest.mark.parametrize("side", ["client", "server"])
async def test_before_a_leaf_ends_new_calls_go_another_way(side: str) -> None:
    """The other side asks for a new connection in time; the running stream goes on."""
    forge = Forge()
    lives = {"client": 3600.0, "server": 3600.0, side: 1.5}
    sources = {
        "client": RotatingSource(forge.material(ROUTER, life=lives["client"])),
        "server": RotatingSource(forge.material(PICOD, life=lives["server"])),
    }
    proven: list[Any] = []
    async with (
        hosted(sources["server"]) as node,
        way(sources["client"], node.address, on_connected=proven.append) as out,
    ):
        stream = out.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        # The peer has a longer leaf by now, but says nothing
        sources[side]._material = forge.material(
            PICOD if side == "server" else ROUTER, generation=2
        )
        acceptor, dialer = node.acceptor, out.dialer
        acceptor._own, dialer._own = acceptor._fresh(), sources["client"].current()
        async with asyncio.timeout(10):
            while len(proven) == 1:
                assert await out.call() == b"hello"
        await stream.write(b"y")
        assert await stream.read() == b"y"
        stream.cancel()


@pytest.mark.slow
async def test_drain_fails_no_call() -> None:
    """Stop listening, GOAWAY, wait: every call begun before is answered."""
    async with mesh() as one:
        stream = one.way.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        bulk = one.way.down(200)
        assert await bulk.read() == bytes(65536)
        draining = asyncio.ensure_future(one.node.acceptor.drain(20))
        await one.way.refused("cannot connect")
        size = 65536
        while (chunk := await bulk.read()) is not grpc.aio.EOF:
            assert isinstance(chunk, bytes)
            size += len(chunk)
        assert size == 200 * 65536
        assert await bulk.code() is grpc.StatusCode.OK
        await stream.write(b"y")
        assert await stream.read() == b"y"
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        del stream, bulk
        await draining
        assert one.node.acceptor.connections == 0


async def test_drain_does_not_wait_for_ever() -> None:
    """A stream without end is left after the time given, and cut by `aclose`."""
    async with mesh() as one:
        stream = one.way.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        await one.node.acceptor.drain(0.1)
        assert one.node.acceptor.connections == 1
        await one.node.acceptor.aclose()
        async with asyncio.timeout(5):
            assert await stream.code() is grpc.StatusCode.UNAVAILABLE
