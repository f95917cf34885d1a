"""A name may lead to several addresses: the one that is proven is found, soon."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.forge import Forge
from tests.tlsloader.posing import Ear, posing
from tests.tlsloader.transport import PICOD, ROUTER, STRANGER, hosted, until, way
from tlsloader._address import Address, resolve
from tlsloader._race import RaceLostError, race

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

BOTH_LOOPS = True

FORGE = Forge()
NAME = "picod.test:443"


def leading(*places: str) -> Callable[[Address], Awaitable[list[Address]]]:
    """Make a resolver by which every name leads to *places*."""

    async def resolve(_: Address) -> list[Address]:
        return [Address.parse(place) for place in places]

    return resolve


@contextmanager
def dead() -> Iterator[str]:
    """Yield an address where connections are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*taken.getsockname())


@contextmanager
def hole() -> Iterator[str]:
    """Yield an address where packets vanish: the queue of its listener is full."""
    with socket.socket() as listening, socket.socket() as queued:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        queued.connect(listening.getsockname())
        yield "{}:{}".format(*listening.getsockname())


@contextmanager
def silent() -> Iterator[str]:
    """Yield an address where connections are taken, and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield "{}:{}".format(*listening.getsockname())


@pytest.mark.parametrize("first", [dead, hole, silent])
async def test_the_next_address_is_tried(first: Any) -> None:
    """At once where the first refuses, after a quarter of a second where it is mute."""
    async with hosted(FORGE.source(PICOD)) as node:
        with first() as bad:
            there = leading(bad, node.address)
            async with way(FORGE.source(ROUTER), NAME, resolve=there) as out:
                loop = asyncio.get_running_loop()
                start = loop.time()
                assert await out.call() == b"hello"
                # The whole dial may take five: the first has not eaten that up
                assert loop.time() - start < 2.5


async def test_an_address_where_somebody_else_is() -> None:
    """It is not spoken to, and the right server is found behind it."""
    ear = Ear()
    async with (
        hosted(FORGE.source(PICOD)) as node,
        posing(FORGE.svid(STRANGER), ear) as wrong,
        way(FORGE.source(ROUTER), NAME, resolve=leading(wrong, node.address)) as out,
    ):
        assert await out.call() == b"hello"
    assert not ear.heard


@pytest.mark.slow
async def test_the_most_telling_error_is_told() -> None:
    """Who was found matters more than who was not."""
    async with posing(FORGE.svid(STRANGER), Ear()) as wrong:
        with dead() as refusing, silent() as mute:
            source, places = FORGE.source(ROUTER), leading(refusing, mute, wrong)
            async with way(source, NAME, resolve=places, connect_timeout=1.0) as out:
                details = (await out.refusal()).details()
            assert details == f"server is {STRANGER}, expected {PICOD}"
            places = leading(mute, refusing)
            async with way(source, NAME, resolve=places, connect_timeout=0.5) as out:
                details = (await out.refusal()).details()
            assert f"cannot connect to {NAME} ({refusing}): " in str(details)


async def test_a_name_that_leads_nowhere_is_said_so() -> None:
    """The text holds the name and the system's reason."""

    async def nowhere(_: Address) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with way(FORGE.source(ROUTER), NAME, resolve=nowhere) as out:
        error = await out.refusal()
    assert error.details() == (
        f"cannot connect to {NAME}: Name or service not known; expected {PICOD}"
    )


async def test_a_name_that_is_looked_up_for_too_long() -> None:
    """The dial's own deadline bounds that, too."""

    async def never(_: Address) -> list[Address]:
        await asyncio.Event().wait()
        return []

    source = FORGE.source(ROUTER)
    async with way(source, NAME, resolve=never, connect_timeout=0.1) as out:
        assert f"{NAME} within 0.1 s" in str((await out.refusal()).details())


async def test_who_lost_the_race_leaves_nothing() -> None:
    """Attempts that are not needed any more hold no descriptor."""
    async with hosted(FORGE.source(PICOD)) as node:
        with silent() as mute, hole() as vanishing:
            there = leading(mute, vanishing, node.address)
            async with way(FORGE.source(ROUTER), NAME, resolve=there) as out:
                await out.call()
                await until(lambda: node.acceptor.connections == 1)
                assert not [each for each in _tcp() if _is_left(each, mute)]


def _tcp() -> list[Any]:
    return psutil.Process().net_connections("tcp4")


def _is_left(connection: Any, mute: str) -> bool:
    remote = "{}:{}".format(*connection.raddr) if connection.raddr else ""
    return remote == mute or connection.status == psutil.CONN_SYN_SENT


async def test_names_are_resolved_by_the_system() -> None:
    """Numbers are their own address, and a socket's path is no name."""
    for text in ("127.0.0.1:80", "[::1]:80", "unix:/run/x"):
        assert [str(each) for each in await resolve(Address.parse(text))] == [text]
    places = await resolve(Address.parse("localhost:80"))
    assert {str(each) for each in places} <= {"127.0.0.1:80", "[::1]:80"}
    with pytest.raises(OSError):  # noqa: PT011 -- its text is the system's
        await resolve(Address.parse("nowhere.invalid:80"))


async def test_both_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one does not work at all, half of the attempts do. Source: RFC 8305, 4."""
    hosts = ["::1", "::2", "::3", "127.0.0.1", "127.0.0.2"]

    async def found(*_: Any, **__: Any) -> list[Any]:
        return [(":" in host, 1, 6, "", (host, 80)) for host in hosts]

    class Loop:
        getaddrinfo = staticmethod(found)

    monkeypatch.setattr(asyncio, "get_running_loop", Loop)
    places = await resolve(Address.parse("x:80"))
    assert [each.host for each in places] == [
        "::1",
        "127.0.0.1",
        "::2",
        "127.0.0.2",
        "::3",
    ]


@pytest.mark.parametrize("listens", ["127.0.0.1:0", "[::1]:0"])
async def test_localhost_of_which_one_family_listens(listens: str) -> None:
    """Callers who say a name get through to whichever of both is there."""
    if ":0" in listens and "[" in listens and not _has_v6():
        pytest.skip("no IPv6 here")
    async with hosted(FORGE.source(PICOD), listen=listens) as node:
        port = node.address.rpartition(":")[2]
        both = leading(f"[::1]:{port}", f"127.0.0.1:{port}")
        source, name = FORGE.source(ROUTER), f"localhost:{port}"
        async with way(source, name, resolve=both) as out:
            assert await out.call() == b"hello"


def _has_v6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class Runner:
    """A way of a race: it ends when a test says so."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    async def __call__(self) -> str:
        self.begun.set()
        try:
            return await asyncio.shield(self.end)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_a_race_goes_to_the_first_that_succeeds() -> None:
    """The next begins when the one before has failed; the others are cancelled."""
    runners = [Runner() for _ in range(4)]
    racing = asyncio.ensure_future(race(runners, delay=30, drop=pytest.fail))
    await runners[0].begun.wait()
    assert not runners[1].begun.is_set()
    runners[0].end.set_exception(OSError("no"))
    async with asyncio.timeout(5):
        await runners[1].begun.wait()
    runners[1].end.set_result("yes")
    assert await racing == "yes"
    assert not runners[2].begun.is_set()


async def test_a_race_that_is_given_up_ends_all() -> None:
    """Nothing outlives the one who asked."""
    runners = [Runner() for _ in range(3)]
    racing = asyncio.ensure_future(race(runners, delay=0, drop=pytest.fail))
    await runners[2].begun.wait()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert all(each.cancelled for each in runners)


async def test_a_second_winner_is_dropped() -> None:
    """Two that succeed in the same moment: one is used, the other closed."""
    runners, dropped = [Runner() for _ in range(2)], list[str]()
    racing = asyncio.ensure_future(race(runners, delay=0, drop=dropped.append))
    await runners[1].begun.wait()
    for number, each in enumerate(runners):
        each.end.set_result(str(number))
    winner = await racing
    assert {winner, *dropped} == {"0", "1"}


async def test_a_lost_race_tells_every_error() -> None:
    """In the order of the ways."""
    runners = [Runner() for _ in range(2)]
    for number, each in enumerate(runners):
        each.end.set_exception(OSError(str(number)))
    with pytest.raises(RaceLostError) as caught:
        await race(runners, delay=30, drop=pytest.fail)
    assert [str(each) for each in caught.value.errors] == ["0", "1"]
