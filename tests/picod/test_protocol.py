"""The frames and values that pass between PicoD and the runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picod import _protocol as wire
from picod._messages import Events, infos
from picod._values import number, pack, text, texts, unpack, unpack_dict

if TYPE_CHECKING:
    from picod._values import Value

LEAVES = st.integers(-(2**63), 2**63) | st.binary(max_size=64)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.binary(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
).filter(lambda value: _depth(value) < 8)


def _depth(value: Value) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 1


@st.composite
def frames(draw: st.DrawFn) -> tuple[int, int, bytes]:
    kind = draw(st.sampled_from(sorted(wire.FROM_RUNNER)))
    stream = 0 if kind == wire.HELLO else draw(st.integers(1, wire.MAX_STREAM))
    if kind == wire.WINDOW:
        return kind, stream, draw(st.binary(min_size=4, max_size=4))
    least = 1 if kind in wire.CREDITED else 0
    return kind, stream, draw(st.binary(min_size=least, max_size=300))


@given(st.lists(frames(), max_size=8), st.data())
def test_frames_survive_any_cut(
    sent: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    """Whatever the pieces in which bytes arrive, the same frames come out."""
    stream = b"".join(wire.frame(*frame) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    parser = wire.Parser(wire.FROM_RUNNER)
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += list(parser.feed(stream[start:end]))
    assert got == sent
    assert not parser.unfinished


@given(st.binary(max_size=400), st.sampled_from([wire.TO_RUNNER, wire.FROM_RUNNER]))
def test_any_bytes_parse_or_are_refused(data: bytes, allowed: frozenset[int]) -> None:
    """Random bytes give frames or ProtocolError at either end, nothing else."""
    parser = wire.Parser(allowed)
    try:
        for kind, _, payload in parser.feed(data):
            assert kind in allowed
            assert len(payload) <= wire.MAX_PAYLOAD
    except wire.ProtocolError:
        return


@pytest.mark.parametrize(
    ("length", "kind", "stream"),
    [
        (1, 0, 1),
        (1, 99, 1),
        (1, wire.REQUEST, 1),
        (1, wire.CANCEL, 1),
        (wire.MAX_PAYLOAD + 1, wire.STDOUT, 1),
        (2**32 - 1, wire.DATA, 1),
        (0, wire.STDOUT, 1),
        (0, wire.DATA, 1),
        (1, wire.STDOUT, 0),
        (1, wire.HELLO, 1),
        (3, wire.WINDOW, 1),
        (5, wire.WINDOW, 1),
    ],
)
def test_a_bad_header_is_refused_at_once(length: int, kind: int, stream: int) -> None:
    """The header alone gets a frame refused: no payload is ever waited for."""
    with pytest.raises(wire.ProtocolError):
        list(wire.Parser(wire.FROM_RUNNER).feed(wire.HEADER.pack(length, kind, stream)))


def test_a_cancel_holds_nothing() -> None:
    """CANCEL with a payload is no CANCEL."""
    with pytest.raises(wire.ProtocolError):
        list(wire.Parser(wire.TO_RUNNER).feed(wire.frame(wire.CANCEL, 1, b"x")))


@given(VALUES)
def test_values_come_back(value: Value) -> None:
    """What was packed is unpacked."""
    assert unpack(pack(value)) == value


@given(st.binary(max_size=200))
def test_each_value_has_one_encoding(data: bytes) -> None:
    """Random bytes are refused, or are exactly what their value packs to."""
    try:
        value = unpack(data)
    except wire.ProtocolError:
        return
    assert pack(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"i01e",
        b"i-0e",
        b"i+1e",
        b"i1",
        b"ie",
        b"i" + b"9" * 5000 + b"e",
        b"3:ab",
        b"-1:a",
        b"01:a",
        b"l",
        b"d1:bi1e1:ai1ee",
        b"d1:ai1e1:ai1ee",
        b"di1ei1ee",
        b"i1ei1e",
        b"l" * 20 + b"e" * 20,
        b"l" * 100_000,
    ],
)
def test_a_bad_value_is_refused(data: bytes) -> None:
    """Nothing but the one encoding of a value is a value."""
    with pytest.raises(wire.ProtocolError):
        unpack(data)


def test_fields_are_of_their_type() -> None:
    """A field of another type than asked for is refused, as is a missing one."""
    values = unpack_dict(pack({b"n": 1, b"t": b"x", b"l": [b"a"], b"m": [1]}))
    assert (number(values, b"n"), text(values, b"t"), texts(values, b"l")) == (
        1,
        b"x",
        [b"a"],
    )
    for take in (number, text, texts):
        for key in (b"m", b"missing"):
            with pytest.raises(wire.ProtocolError):
                take(values, key)
    with pytest.raises(wire.ProtocolError):
        unpack_dict(b"le")


@given(st.lists(st.tuples(st.sampled_from(sorted(wire.FROM_RUNNER)), st.binary())))
def test_any_frames_are_events_or_refused(frames: list[tuple[int, bytes]]) -> None:
    """Whatever a runner sends about a command gives events or ProtocolError."""
    events = Events(1)
    try:
        for kind, payload in frames:
            events.event(kind, payload)
    except wire.ProtocolError:
        return


@given(st.binary(max_size=200))
def test_any_bytes_are_file_records_or_refused(data: bytes) -> None:
    """Random bytes give file records or ProtocolError."""
    try:
        told = infos(data)
    except wire.ProtocolError:
        return
    assert sum(25 + len(i.name + i.path + i.symlink_target) for i in told) == len(data)
