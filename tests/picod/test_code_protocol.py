"""The frames about code, fuzzed at each of their three readers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picod import _code_messages as messages
from picod import _protocol as wire
from picod._code import Code
from picod._errors import RunnerFaultError
from picod._values import pack, unpack_dict
from picod.inside.link import Call
from picod.inside.runs import Run
from tests.picod.sandboxes import singly
from tests.picod.test_protocol import VALUES
from tests.picod.test_runner_faults import HELLO, puppet

if TYPE_CHECKING:
    from picod._values import Value

NAMES = st.sampled_from([b"text/plain", b"image/png", b"x" * 300, b"\xff"])
HEADS = st.fixed_dictionaries(
    {},
    optional={
        b"main": st.integers(-1, 2) | st.just(b"x"),
        b"parts": st.dictionaries(NAMES, st.integers(-2, 4_000_000), max_size=3),
        b"cut": st.dictionaries(NAMES, st.binary(max_size=300), max_size=2),
    },
).map(lambda head: pack(cast("Value", head)))
FAULTS = st.fixed_dictionaries(
    {
        b"name": st.binary(max_size=300),
        b"value": st.binary(max_size=9),
        b"traceback": st.binary(max_size=9),
    }
).map(lambda fault: pack(cast("Value", fault)))
FIELDS = (
    *(b"context", b"count", b"notice", b"name", b"value", b"traceback", b"cause"),
    *(b"duration_ns", b"lost", b"output_omitted", b"results_omitted", b"language"),
    *(b"cwd", b"busy", b"waiting", b"contexts", b"imports", b"memory", b"error"),
)
ANSWERS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=19).map(pack)
PAYLOADS = st.binary(max_size=40) | HEADS | FAULTS | ANSWERS
FROM_INTERPRETER = st.lists(
    st.tuples(st.sampled_from(sorted(wire.FROM_INTERPRETER)), PAYLOADS), max_size=12
)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(wire.FROM_RUNNER)), PAYLOADS)),
    st.booleans(),
)
def test_any_frames_are_events_or_refused(
    frames: list[tuple[int, bytes]],
    started: bool,  # noqa: FBT001
) -> None:
    """Whatever a runner sends about code gives events or ProtocolError."""
    events = messages.CodeEvents()
    if started:
        events.event(wire.STARTED, pack({b"context": b"", b"count": 1, b"notice": b""}))
    try:
        for kind, payload in frames:
            events.event(kind, payload)
    except wire.ProtocolError:
        return


@given(ANSWERS | PAYLOADS)
def test_any_answers_are_contexts_or_refused(payload: bytes) -> None:
    """Whatever a runner answers about contexts is read or refused."""
    for read in (messages.context, messages.contexts):
        try:
            read(unpack_dict(payload))
        except wire.ProtocolError:
            continue


class Captured:
    """A link that keeps what is sent."""

    room = True

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []

    def send(self, kind: int, _: int, payload: bytes = b"", *, by: float = 0) -> None:
        del by
        self.frames.append((kind, bytes(payload)))


class Named:
    """A context of which only the name is asked."""

    name = b"python"


def passed_on(said: list[tuple[int, bytes]], budget: int) -> list[tuple[int, bytes]]:
    """Return what the runner tells PicoD of what an interpreter *said*."""
    link = Captured()
    request: dict[bytes, Value] = {b"code": b"", b"timeout_ms": 1}
    call = Call(cast("Any", link), 1)
    run = Run(call, cast("Any", Named()), request, budget)
    run.begin(1, b"")
    died = b""
    for kind, payload in said:
        run.credit = wire.CREDIT
        try:
            if kind in {wire.STDOUT, wire.STDERR}:
                run.output(kind, payload or b"x")
            elif kind == wire.RESULT:
                run.result(unpack_dict(payload))
            elif kind == wire.DATA:
                run.result_data(payload or b"x")
            elif kind == wire.RAISED:
                run.raised(unpack_dict(payload))
            elif kind == wire.DONE:
                break
        except wire.ProtocolError:
            died = b"it broke the protocol"
            break
    run.end(died)
    return link.frames


@given(FROM_INTERPRETER, st.integers(0, 60))
def test_nothing_that_an_interpreter_says_breaks_the_sandbox(
    said: list[tuple[int, bytes]], budget: int
) -> None:
    """What the runner passes on is well formed, whatever the interpreter sent."""
    events = messages.CodeEvents()
    written = 0
    for kind, payload in passed_on(said, budget):
        events.event(kind, payload)
        written += len(payload) if kind in wire.CREDITED else 0
    assert events.over
    assert written <= budget


STARTED = wire.frame(
    wire.STARTED, 1, pack({b"context": b"python", b"count": 1, b"notice": b""})
)
HEAD = wire.frame(
    wire.RESULT, 1, pack({b"main": 1, b"parts": {b"text/plain": 3}, b"cut": {}})
)
RAISED = wire.frame(
    wire.RAISED, 1, pack({b"name": b"E", b"value": b"", b"traceback": b""})
)


def frame(kind: int, payload: bytes) -> bytes:
    return wire.frame(kind, 1, payload)


MALFORMED = {
    "output first": frame(wire.STDOUT, b"x"),
    "started twice": STARTED + STARTED,
    "data without a result": STARTED + frame(wire.DATA, b"x"),
    "too much data": STARTED + HEAD + frame(wire.DATA, b"four"),
    "output within a result": STARTED + HEAD + frame(wire.STDOUT, b"x"),
    "raised twice": STARTED + RAISED + RAISED,
    "no result": STARTED + frame(wire.RESULT, b"de"),
    "a result too large": STARTED
    + frame(wire.RESULT, pack({b"main": 1, b"parts": {b"a": 3_145_729}, b"cut": {}})),
    "strange end": STARTED + frame(wire.DONE, pack({b"cause": 3})),
    "a file record": STARTED + frame(wire.INFO, b"x"),
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_frame_ends_the_sandbox(answer: bytes) -> None:
    """A runner that breaks the protocol about code is given up."""
    runner = await puppet(HELLO, answer)
    try:
        async with asyncio.timeout(10):
            with suppress(RunnerFaultError):
                async with aclosing(singly(runner.code.run(Code("x")))) as events:
                    async for _ in events:
                        pass
            await runner.wait_ended()
        assert runner.fault
        assert "protocol" in runner.fault
    finally:
        await runner.aclose()


@pytest.mark.parametrize("answer", [b"le", b"de", pack({b"context": 5})])
async def test_a_malformed_answer_ends_the_sandbox(answer: bytes) -> None:
    """The same holds for questions about contexts."""
    runner = await puppet(HELLO, frame(wire.DONE, answer))
    try:
        with pytest.raises(RunnerFaultError):
            await runner.code.restart("python")
        await runner.wait_ended()
        assert "protocol" in (runner.fault or "")
    finally:
        await runner.aclose()
