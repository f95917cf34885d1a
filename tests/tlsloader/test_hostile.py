"""Whatever a peer says: no byte is lost or moved, nothing grows, nothing breaks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from tests.tlsloader.streams import (
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    UNITS,
    Unit,
    Wire,
    borders,
    frames_in,
    joined,
    pieces_of,
)
from tlsloader._end import End
from tlsloader._frames import (
    END_HEADERS,
    HEADER,
    PREFACE,
    FrameFollower,
    frame,
    goaway,
)
from tlsloader._frames import GOAWAY as LEAVE
from tlsloader._refuser import Refuser
from tlsloader._relay import Relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST = frame(SETTINGS, 0, 0)
CALL = frame(HEADERS, END_HEADERS, 1, b"call")
REASON = "hung up on spiffe://x"


def run(act: Callable[[], Awaitable[None]]) -> None:
    """Run one example on a loop of its own."""

    async def whole() -> None:
        await act()

    with asyncio.Runner() as runner:
        runner.run(whole())


class Joined:
    """A relay between two wires."""

    def __init__(self) -> None:
        server, client = End(), End()
        self.server, self.client = Wire(server), Wire(client)
        self.relay = Relay(server=server, client=client)
        self.relay.start()

    def server_says(self, data: bytes) -> None:
        if not self.server.gone:
            self.server.end.data_received(data)

    def client_says(self, data: bytes) -> None:
        if not self.client.gone:
            self.client.end.data_received(data)


# --- the follower


@given(st.lists(st.binary(max_size=70), max_size=20))
def test_garbage_is_followed_without_a_word(pieces: list[bytes]) -> None:
    """Bytes that are no frames break nothing, and little of them is kept."""
    follower = FrameFollower()
    for piece in pieces:
        assert -1 <= follower.feed(piece) <= len(piece)
        assert len(follower._head) < HEADER


@given(st.integers(0, 2**24 - 1), st.integers(0, 255))
def test_a_frame_may_be_as_long_as_it_says(size: int, kind: int) -> None:
    """Sixteen megabytes are counted, not kept."""
    follower, left = FrameFollower(), size
    head = size.to_bytes(3, "big") + bytes((kind, END_HEADERS)) + bytes(4)
    assert follower.feed(head) == (HEADER if size == 0 else -1)
    while left > 0:
        step = min(left, 1 << 20)
        left -= step
        assert follower.feed(bytes(step)) == (step if left == 0 else -1)
    assert follower.at_border


# --- the relay


@given(UNITS, st.data())
def test_what_passes_is_what_was_said(units: list[Unit], data: st.DataObject) -> None:
    """In both directions, however it is split, nothing added and nothing lost."""
    down, up = FIRST + joined(units), PREFACE + joined(units)
    answers, requests = data.draw(pieces_of(down)), data.draw(pieces_of(up))

    async def act() -> None:
        joint = Joined()
        for piece in answers:
            joint.server_says(piece)
        for piece in requests:
            joint.client_says(piece)
        assert (joint.client.said, joint.server.said) == (down, up)
        joint.relay.abort()

    run(act)


@given(UNITS, st.data())
def test_goaway_is_put_at_the_next_border(
    units: list[Unit], data: st.DataObject
) -> None:
    """Once, between two frames and outside of header blocks, whenever it is asked."""
    stream = FIRST + joined(units)
    places = {len(FIRST)} | {len(FIRST) + at for at in borders(units)}
    pieces = data.draw(pieces_of(stream))
    asked = data.draw(st.integers(0, len(pieces)))

    async def act() -> None:
        joint = Joined()
        joint.client_says(PREFACE + FIRST + CALL)
        for number, piece in enumerate(pieces):
            if number == asked:
                joint.relay.goaway()
            joint.server_says(piece)
        if asked == len(pieces):
            joint.relay.goaway()
        joint.relay.goaway()
        before = len(b"".join(pieces[:asked]))
        at = min(place for place in places if place >= before)
        assert joint.client.said == stream[:at] + LEAVE + stream[at:]
        joint.relay.abort()

    run(act)


@given(UNITS, st.data())
def test_a_server_that_says_goaway_is_not_contradicted(
    units: list[Unit], data: st.DataObject
) -> None:
    """It may have named its last stream, which no later GOAWAY may raise.

    Source: RFC 9113, section 6.8.
    """
    at = data.draw(st.integers(0, len(units)))
    own = [frame(GOAWAY, 0, 0, bytes(8))]
    stream = FIRST + joined([*units[:at], own, *units[at:]])
    pieces = data.draw(pieces_of(stream))

    async def act() -> None:
        joint = Joined()
        joint.client_says(PREFACE + FIRST + CALL)
        for piece in pieces:
            joint.server_says(piece)
        joint.relay.goaway()
        joint.server_says(FIRST)
        assert joint.client.said == stream + FIRST
        joint.relay.abort()

    run(act)


@given(UNITS, st.data())
def test_a_server_that_says_goaway_at_once_is_heard_after_the_first_call(
    units: list[Unit], data: st.DataObject
) -> None:
    """Else gRPC would keep the connection and never call on it."""
    early, late = FIRST, frame(GOAWAY, 0, 0, bytes(8)) + joined(units)
    pieces = data.draw(pieces_of(early + late))

    async def act() -> None:
        joint = Joined()
        for piece in pieces:
            joint.server_says(piece)
        # At most the head of the frame has passed, which tells nothing yet
        assert joint.client.said.startswith(early)
        assert len(joint.client.said) < len(early) + HEADER
        assert joint.server.paused
        joint.client_says(PREFACE + FIRST + CALL)
        assert joint.client.said == early + late
        assert not joint.server.paused
        joint.relay.abort()

    run(act)


@given(UNITS, st.data())
def test_an_end_with_a_reason_comes_at_the_next_border(
    units: list[Unit], data: st.DataObject
) -> None:
    """What the server said before is whole; what it says after is not heard."""
    stream = FIRST + joined(units)
    places = {len(FIRST)} | {len(FIRST) + at for at in borders(units)}
    pieces = data.draw(pieces_of(stream))
    ended = data.draw(st.integers(0, len(pieces) - 1))

    async def act() -> None:
        joint = Joined()
        joint.client_says(PREFACE + FIRST + CALL)
        for number, piece in enumerate(pieces):
            if number == ended:
                joint.relay.end(REASON)
                joint.client_says(b"too late")
            joint.server_says(piece)
        before = len(b"".join(pieces[:ended]))
        at = min(place for place in places if place >= before)
        assert joint.client.said == stream[:at] + goaway(REASON)
        assert joint.client.gone
        assert joint.server.gone
        assert b"too late" not in joint.server.said

    run(act)


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=20))
def test_garbage_passes_as_it_is(said: list[tuple[bool, bytes]]) -> None:
    """The relay judges nothing: gRPC does, on a connection that is proven."""

    async def act() -> None:
        joint = Joined()
        joint.relay._settle()
        for from_server, data in said:
            (joint.server_says if from_server else joint.client_says)(data)
        down = b"".join(data for from_server, data in said if from_server)
        up = b"".join(data for from_server, data in said if not from_server)
        assert (joint.client.said, joint.server.said) == (down, up)
        joint.relay.abort()

    run(act)


# --- the refuser


async def _refuse(*pieces: bytes) -> Wire:
    """Have a refuser hear *pieces*; return the wire that it speaks on."""
    end = End()
    wire = Wire(end)
    refuser = Refuser(end, "no, because")
    serving = asyncio.ensure_future(refuser.run())
    await asyncio.sleep(0)  # noqa: TID251 -- one turn of the loop
    for piece in pieces:
        if not wire.gone:
            end.data_received(piece)
            assert len(refuser._heard) <= 16384 + HEADER + len(piece)
    wire.abort()
    await serving
    return wire


@given(st.lists(st.binary(max_size=70), max_size=20))
def test_garbage_is_refused_in_whole_frames(pieces: list[bytes]) -> None:
    """Nothing that it says is half, nothing that it hears is kept for long."""

    async def act() -> None:
        for start in (b"", PREFACE):
            said = frames_in((await _refuse(start, *pieces)).said)
            assert said[0][:2] == (SETTINGS, 0)

    run(act)


@given(UNITS, st.data())
def test_each_call_is_refused_however_it_is_split(
    units: list[Unit], data: st.DataObject
) -> None:
    """One answer for each HEADERS, in order; SETTINGS and PING are acknowledged."""
    stream = PREFACE + joined(units)
    short = [unit for unit in units if max(map(len, unit)) <= 16384 + HEADER]
    pieces = data.draw(pieces_of(stream))

    async def act() -> None:
        wire = await _refuse(*pieces)
        whole = await _refuse(stream)
        assert wire.said == whole.said
        if short != units:
            return  # a frame longer than we allow ends the connection
        asked = frames_in(joined(units))
        said = frames_in(wire.said)
        calls = [stream for kind, _, stream, _ in asked if kind == HEADERS]
        assert [each[2] for each in said if each[0] == HEADERS] == calls
        open_ones = [
            stream
            for kind, flags, stream, _ in asked
            if kind == HEADERS and not flags & 1
        ]
        assert [each[2] for each in said if each[0] == RST_STREAM] == open_ones
        pings = [each[3] for each in asked if each[0] == PING and not each[1] & 1]
        assert [each[3] for each in said if each[0] == PING] == pings
        assert [each[0] for each in said].count(GOAWAY) == bool(calls)

    run(act)


def test_many_small_frames_cost_little() -> None:
    """A flood in one read is parsed in one pass."""
    flood = frame(PING, 0, 0, bytes(8)) * 15_000

    async def act() -> None:
        loop = asyncio.get_running_loop()
        took = []
        for size in (1, 4):
            start = loop.time()
            await _refuse(PREFACE, flood * size)
            took.append(loop.time() - start)
        # Linear: four times as many take about four times as long, not sixteen
        assert took[1] < 10 * took[0]

    run(act)


async def test_who_does_not_read_is_not_answered_for_ever() -> None:
    """Answers wait in a buffer of fixed size: then nothing more is read."""
    end = End()
    wire: Any = Wire(end)
    serving = asyncio.ensure_future(Refuser(end, "no").run())
    await asyncio.sleep(0)  # noqa: TID251 -- one turn of the loop
    end.pause_writing()
    assert wire.paused
    end.resume_writing()
    assert not wire.paused
    wire.abort()
    await serving
