"""Where one HTTP/2 frame ends and the next begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tlsloader.streams import (
    CONTINUATION,
    HEADERS,
    PUSH,
    SETTINGS,
    UNITS,
    Unit,
    borders,
    joined,
)
from tlsloader._frames import END_HEADERS, GOAWAY, PREFACE, FrameFollower, frame


@given(UNITS, st.data())
def test_knows_every_border_however_the_bytes_are_split(
    units: list[Unit], data: st.DataObject
) -> None:
    """Each border is found, and nothing else is taken for one."""
    stream = joined(units)
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
def test_splits_at_every_byte(units: list[Unit]) -> None:
    """One byte at a time tells the same as all at once."""
    stream = joined(units)
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
def test_a_preface_is_skipped(units: list[Unit]) -> None:
    """What a client says before its frames is none, and its first call is noticed."""
    follower = FrameFollower(skip=len(PREFACE))
    stream = PREFACE + joined(units)
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
