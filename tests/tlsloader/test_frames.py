"""Where one HTTP/2 frame ends and the next begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsloader._frames import END_HEADERS, GOAWAY, PREFACE, FrameFollower, frame

if TYPE_CHECKING:
    from collections.abc import Sequence

DATA, HEADERS, SETTINGS, PUSH, PING, CONTINUATION = 0, 1, 4, 5, 6, 9

PLAIN = st.builds(
    frame,
    st.sampled_from((DATA, SETTINGS, PING, 0xAB)),
    st.integers(0, 255),
    st.integers(0, 2**31 - 1),
    st.binary(max_size=300),
).map(lambda one: [one])


@st.composite
def block(draw: st.DrawFn) -> list[bytes]:
    """Make one unit that nothing may enter: a header block of one or more frames."""
    pieces = draw(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
    kinds = [draw(st.sampled_from((HEADERS, PUSH)))]
    kinds += [CONTINUATION] * (len(pieces) - 1)
    last = len(pieces) - 1
    return [
        frame(kind, END_HEADERS if index == last else 0, 1, piece)
        for index, (kind, piece) in enumerate(zip(kinds, pieces, strict=True))
    ]


UNITS = st.lists(PLAIN | block(), min_size=1, max_size=8)


def borders(units: Sequence[Sequence[bytes]]) -> set[int]:
    """Return the offsets at which a frame may be put."""
    found, at = set(), 0
    for unit in units:
        at += sum(map(len, unit))
        found.add(at)
    return found


@given(UNITS, st.data())
def test_knows_every_border_however_the_bytes_are_split(
    units: list[list[bytes]], data: st.DataObject
) -> None:
    """Each border is found, and nothing else is taken for one."""
    stream = b"".join(piece for unit in units for piece in unit)
    cuts = data.draw(st.sets(st.integers(1, len(stream))), label="cuts")
    true_borders = borders(units)
    follower, start = FrameFollower(), 0
    assert not follower.at_border
    for end in sorted(cuts | {len(stream)}):
        first = follower.feed(stream[start:end])
        inside = [at for at in true_borders if start < at <= end]
        assert first == (min(inside) - start if inside else -1)
        assert follower.at_border == (end in true_borders)
        start = end


@given(UNITS)
def test_splits_at_every_byte(units: list[list[bytes]]) -> None:
    """One byte at a time tells the same as all at once."""
    stream = b"".join(piece for unit in units for piece in unit)
    follower, found = FrameFollower(), set()
    for at in range(len(stream)):
        if follower.feed(stream[at : at + 1]) == 1:
            found.add(at + 1)
    assert found == borders(units)


def test_nothing_may_come_before_the_first_frame() -> None:
    """The server's SETTINGS must be the first frame that a client sees."""
    follower = FrameFollower()
    assert not follower.at_border
    assert follower.feed(b"") == -1
    assert follower.feed(frame(SETTINGS, 0, 0)) == 9


@given(UNITS)
def test_a_preface_is_skipped(units: list[list[bytes]]) -> None:
    """What a client says before its frames is none, and its first call is noticed."""
    follower = FrameFollower(skip=len(PREFACE))
    stream = PREFACE + b"".join(piece for unit in units for piece in unit)
    for at in range(len(stream)):
        follower.feed(stream[at : at + 1])
    assert follower.at_border
    assert follower.headers_seen == any(unit[0][3] in {HEADERS, PUSH} for unit in units)


def test_goaway_is_the_graceful_one() -> None:
    """It names the highest stream and no error. Source: RFC 9113, section 6.8."""
    assert bytes.fromhex("000008 07 00 00000000 7fffffff 00000000") == GOAWAY


@pytest.mark.parametrize("kind", [HEADERS, PUSH])
def test_an_open_header_block_is_no_border(kind: int) -> None:
    """Only CONTINUATION may follow. Source: RFC 9113, section 6.10."""
    follower = FrameFollower()
    assert follower.feed(frame(kind, 0, 1, b"abc")) == -1
    assert follower.feed(frame(CONTINUATION, 0, 1, b"abc")) == -1
    assert follower.feed(frame(CONTINUATION, END_HEADERS, 1, b"abc")) == 12
