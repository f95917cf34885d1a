"""Forwarding: what a caller sees through the Router is what PicoD did."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import grpc
import pytest
from grpc._cython.cygrpc import InternalError

from router._errors import NotYoursError
from router._forward import Limits, Method
from router._relay import put
from tests.router.upstream import (
    EXECUTE,
    INTERACT,
    PATHS,
    PICOD,
    READ,
    STAT,
    WRITE,
    Script,
    hop,
)

OK = grpc.StatusCode.OK
SHAPES = {path: PICOD.methods_by_name[path.rpartition("/")[2]] for path in PATHS}
DETAILS = bytes(range(256))


def begin(channel: grpc.aio.Channel, path: str, **options: Any) -> Any:
    """Start a call of the method's own shape; one-message calls send b"ask"."""
    method = SHAPES.get(path, SHAPES[STAT])
    wire = cast("Any", channel)
    match method.client_streaming, method.server_streaming:
        case False, False:
            return wire.unary_unary(path)(b"ask", **options)
        case False, True:
            return wire.unary_stream(path)(b"ask", **options)
        case True, False:
            return wire.stream_unary(path)(**options)
        case _:
            return wire.stream_stream(path)(**options)


async def outcome(call: Any, path: str, *sent: bytes) -> tuple[object, ...]:
    """Send, take everything, and return all that a caller can see of a call.

    An empty message of Execute says nothing.
    """
    method = SHAPES[path]
    answers: list[bytes] = []
    if method.client_streaming:
        for raw in sent:
            await put(call, raw)
        with suppress(asyncio.InvalidStateError, InternalError):
            await call.done_writing()
    with suppress(grpc.aio.AioRpcError):
        if method.server_streaming:
            answers = [each async for each in call if each or path != EXECUTE]
        else:
            answers = [await call]
    return (
        answers,
        await call.code(),
        await call.details(),
        sorted(await call.initial_metadata() or ()),
        sorted(await call.trailing_metadata() or ()),
    )


METADATA: tuple[tuple[str, str | bytes], ...] = (
    ("x-one", "1"),
    ("x-one", "2"),
    ("x-raw-bin", b"\0\xff"),
)
ENDINGS = {
    "good": Script(),
    "good, with metadata": Script(initial=METADATA, trailing=METADATA),
    "no answer": Script(answers=()),
    "empty answer": Script(answers=(b"",)),
    "refused": Script(
        code=grpc.StatusCode.NOT_FOUND, details="gone", trailing=METADATA
    ),
    "refused after metadata": Script(
        initial=METADATA,
        wait=True,
        code=grpc.StatusCode.ABORTED,
        details="late",
        trailing=METADATA,
    ),
    "odd details": Script(code=grpc.StatusCode.DATA_LOSS, details="50 %\nüñ %0A"),
    "no details": Script(code=grpc.StatusCode.OUT_OF_RANGE),
    "error details": Script(
        code=grpc.StatusCode.INTERNAL,
        details="x",
        trailing=(("grpc-status-details-bin", DETAILS),),
    ),
    "unavailable, says PicoD": Script(
        code=grpc.StatusCode.UNAVAILABLE,
        details="fault",
        trailing=(("grpc-status-details-bin", DETAILS),),
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ending", ENDINGS)
async def test_every_ending_is_the_same_forwarded(path: str, ending: str) -> None:
    """Code, details, messages and both metadata pass unchanged, in every shape."""
    async with hop() as mesh:
        mesh.upstream.script = ENDINGS[ending]
        seen = []
        for forwarded in (False, True):
            call = begin(mesh.via(forwarded=forwarded), path)
            if SHAPES[path].server_streaming and mesh.upstream.script.wait:
                # Those that come together with the status gRPC sometimes loses
                await call.initial_metadata()
            mesh.upstream.go.set()
            seen.append(await outcome(call, path, b"a", b"b"))
            mesh.upstream.go.clear()
        assert seen[1] == seen[0]
        await mesh.passes[0].gone.wait()
        assert [granted.closed for granted in mesh.passes] == [1]
        assert mesh.passes[0].code is ENDINGS[ending].code


async def test_messages_of_the_caller_arrive_whole_and_in_order() -> None:
    """An upload is passed on message by message, empty ones too."""
    async with hop() as mesh:
        sent = [b"", b"x" * 1_000_000, b"y"]
        await outcome(begin(mesh.front, WRITE), WRITE, *sent)
        assert mesh.upstream.read == sent


@pytest.mark.parametrize("path", [WRITE, INTERACT])
async def test_an_early_refusal_survives_a_write_in_flight(path: str) -> None:
    """The true status comes through while the caller is still sending."""
    async with hop() as mesh:
        mesh.upstream.script = Script(
            code=grpc.StatusCode.ALREADY_EXISTS,
            details="early",
            trailing=(("x-why", "early"),),
            enough=1,
        )
        for _ in range(20):
            mesh.upstream.read.clear()
            call = begin(mesh.front, path)
            chunks = [b"z" * 100_000] * 20
            seen = await outcome(call, path, *chunks)
            assert seen[1:3] == (grpc.StatusCode.ALREADY_EXISTS, "early")
            assert seen[4] == [("x-why", "early")]


@pytest.mark.parametrize("path", [WRITE, INTERACT])
async def test_put_reports_the_end_of_the_call_and_keeps_its_status(path: str) -> None:
    """The private calls below `put` exist and behave: it spoils no status."""
    async with hop() as mesh:
        mesh.upstream.script = Script(
            code=grpc.StatusCode.ALREADY_EXISTS, details="early", enough=0
        )
        call = begin(mesh.direct, path)
        while await put(call, b"z" * 100_000):
            pass
        assert await call.code() is grpc.StatusCode.ALREADY_EXISTS
        assert await call.details() == "early"


@pytest.mark.parametrize("path", [READ, EXECUTE, INTERACT])
async def test_initial_metadata_comes_before_a_late_first_message(path: str) -> None:
    """A stream shows that it is open before PicoD has anything to say."""
    async with hop() as mesh:
        mesh.upstream.script = Script(initial=METADATA, wait=True)
        call = begin(mesh.front, path)
        assert sorted(await call.initial_metadata()) == sorted(METADATA)
        mesh.upstream.go.set()
        assert (await outcome(call, path))[1] is OK


@pytest.mark.parametrize("path", [READ, EXECUTE])
async def test_a_message_does_not_wait_for_the_next(path: str) -> None:
    """What PicoD says reaches the caller while nothing follows."""
    async with hop() as mesh:
        mesh.upstream.script = Script(pause=True)
        call = begin(mesh.front, path)
        assert await call.read() == b"one"
        mesh.upstream.go.set()
        assert await call.read() == b"two"
        while (rest := await call.read()) is not grpc.aio.EOF:
            assert not rest
        assert await call.code() is OK


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("code", [OK, grpc.StatusCode.NOT_FOUND])
async def test_news_travel_in_the_initial_metadata(
    path: str, code: grpc.StatusCode
) -> None:
    """What the Router has to tell comes also when the call fails."""
    async with hop() as mesh:
        mesh.news = (("x-agentcube-session-id", "ses-1"),)
        mesh.upstream.script = Script(code=code)
        seen = await outcome(begin(mesh.front, path), path)
        assert seen[1] is code
        assert seen[3] == [("x-agentcube-session-id", "ses-1")]
        assert mesh.passes[0].told


@pytest.mark.parametrize("path", PATHS)
async def test_a_hang_up_reaches_the_sandbox(path: str) -> None:
    """The caller's cancel cancels PicoD's handler."""
    async with hop() as mesh:
        mesh.upstream.script = Script(wait=True)
        call = begin(mesh.front, path)
        code = asyncio.ensure_future(call.code())
        await mesh.upstream.entered.wait()
        call.cancel()
        assert await code is grpc.StatusCode.CANCELLED
        await mesh.upstream.left.wait()
        assert mesh.upstream.cancelled == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_lost_caller_reaches_the_sandbox(path: str) -> None:
    """A closed connection of the caller ends its calls at PicoD."""
    async with hop() as mesh:
        mesh.upstream.script = Script(wait=True)
        call = begin(mesh.front, path)
        code = asyncio.ensure_future(call.code())
        await mesh.upstream.entered.wait()
        await mesh.front.close()
        await mesh.upstream.left.wait()
        await code
        assert mesh.upstream.cancelled == 1


@pytest.mark.parametrize("path", PATHS)
async def test_the_deadline_goes_on(path: str) -> None:
    """PicoD sees the caller's deadline, give or take the rounding of the wire."""
    async with hop() as mesh:
        await outcome(begin(mesh.front, path, timeout=50), path)
        assert mesh.upstream.remaining is not None
        assert 45 < mesh.upstream.remaining < 53


@pytest.mark.parametrize("path", PATHS)
async def test_no_call_is_without_end(path: str) -> None:
    """Without a deadline of the caller's the Router's own limit holds."""
    async with hop(limits=Limits(call_timeout=20, stream_age=40)) as mesh:
        await outcome(begin(mesh.front, path), path)
        assert mesh.upstream.remaining is not None
        limit = 20 if path == STAT else 40
        assert limit - 5 < mesh.upstream.remaining < limit + 2


@pytest.mark.parametrize("path", PATHS)
async def test_too_late_is_said_and_told_to_the_sandbox(path: str) -> None:
    """A limit that passes ends the call at both sides."""
    async with hop(limits=Limits(call_timeout=0.1, stream_age=0.1)) as mesh:
        mesh.upstream.script = Script(wait=True)
        seen = await outcome(begin(mesh.front, path), path)
        assert seen[1:3] == (grpc.StatusCode.ABORTED, "SandboxTimeoutError")
        await mesh.upstream.left.wait()
        assert mesh.upstream.cancelled == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_dead_sandbox_is_named(path: str) -> None:
    """A connection that breaks is our own fault to explain, not the caller's."""
    async with hop() as mesh:
        mesh.upstream.script = Script(wait=True)
        call = begin(mesh.front, path)
        ended = asyncio.ensure_future(call.code())
        await mesh.upstream.entered.wait()
        await mesh.server.stop(None)
        assert await ended is grpc.StatusCode.ABORTED
        assert await call.details() == "SandboxUnreachableError"


@pytest.mark.parametrize("path", PATHS)
async def test_a_channel_closed_by_ourselves_answers_the_caller(path: str) -> None:
    """Locally cancelled calls end with a status; nobody is left hanging."""
    async with hop() as mesh:
        mesh.upstream.script = Script(wait=True)
        call = begin(mesh.front, path)
        ended = asyncio.ensure_future(call.code())
        await mesh.upstream.entered.wait()
        await mesh.onward.close()
        assert await ended is grpc.StatusCode.ABORTED
        assert await call.details() == "SandboxUnreachableError"
        late = begin(mesh.front, path)
        assert await late.code() is grpc.StatusCode.ABORTED


@pytest.mark.parametrize("path", PATHS)
async def test_a_refused_call_never_leaves(path: str) -> None:
    """Without a passage nothing reaches the sandbox."""
    async with hop() as mesh:
        mesh.refusal = NotYoursError("not yours")
        seen = await outcome(begin(mesh.front, path), path, b"a")
        assert seen[1:3] == (grpc.StatusCode.ABORTED, "NotYoursError")
        assert not mesh.upstream.entered.is_set()


async def test_what_the_caller_calls_itself_is_not_passed_on() -> None:
    """The sandbox gets the passage's metadata and nothing of the caller's."""
    async with hop() as mesh:
        mine = (("x-cubemesh-principal-bin", b"root"), ("authorization", "Bearer x"))
        await outcome(begin(mesh.front, STAT, metadata=mine), STAT)
        named = {key for key in mesh.upstream.metadata if key != "user-agent"}
        assert named == {"x-ours"}


@pytest.mark.slow
async def test_a_slow_reader_holds_the_sandbox_back() -> None:
    """What PicoD writes waits in PicoD: a caller who reads nothing costs no memory."""
    async with hop() as mesh:
        mesh.upstream.script = Script(answers=(b"x" * 65_536,) * 4_000)
        call = begin(mesh.front, READ)
        await call.read()
        before = -1
        while before != mesh.upstream.written:
            before = mesh.upstream.written
            await asyncio.sleep(0.2)  # noqa: TID251 - only time shows that it stands
        assert before < 100
        call.cancel()


@pytest.mark.slow
async def test_a_sandbox_that_does_not_read_holds_the_caller_back() -> None:
    """What the caller sends waits at the caller while PicoD does not read."""
    async with hop() as mesh:
        mesh.upstream.script = Script(wait=True)
        call = begin(mesh.front, WRITE)
        sent = 0
        with suppress(TimeoutError):
            while sent < 4_000:
                async with asyncio.timeout(0.3):
                    await put(call, b"x" * 65_536)
                sent += 1
        assert sent < 100
        call.cancel()


async def test_unknown_methods_are_refused() -> None:
    """Neither a method PicoD lacks nor PicoD's other door is ever forwarded."""
    async with hop() as mesh:
        for path in ("/cubemesh.v1.PicoD/New", "/cubemesh.v1.SandboxControl/Shutdown"):
            call = begin(mesh.front, path)
            assert await call.code() is grpc.StatusCode.ABORTED
            assert await call.details() == "MethodUnknownError"
        assert not mesh.upstream.entered.is_set()


async def test_unknown_methods_of_picod_go_on_when_asked() -> None:
    """--forward-unknown-methods reaches a newer PicoD, but no other service."""
    async with hop(unknown=True) as mesh:
        call = begin(mesh.front, "/cubemesh.v1.PicoD/New")
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await call.details() == "Method not found!"
        call = begin(mesh.front, "/cubemesh.v1.SandboxControl/Shutdown")
        assert await call.details() == "MethodUnknownError"


@pytest.mark.parametrize("path", PATHS)
async def test_a_cancelled_handler_still_answers(path: str) -> None:
    """Should anything cancel the task of a live call, its caller hears of it."""
    async with hop() as mesh:
        mesh.upstream.script = Script(wait=True)
        call = begin(mesh.front, path)
        ended = asyncio.ensure_future(call.code())
        await mesh.upstream.entered.wait()
        mesh.passes[0].task.cancel()
        assert await ended is grpc.StatusCode.CANCELLED


def test_methods_keep_their_own_shape() -> None:
    """Cardinality comes from the contract, so that a new method needs no code."""
    for method in PICOD.methods:
        made = Method.of(method)
        assert (made.streams_up, made.streams_down) == (
            method.client_streaming,
            method.server_streaming,
        )
        assert made.name == method.name
