"""PicoD's wire side over a real gRPC socket, with the work done in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from cubemesh.v1 import picod_pb2
from picod._code import Code, NewContext
from picod._errors import ERRORS_BY_REASON, IsolationError, PicoDError
from picod._refusals import TABLE
from picod._servicer import PicoDServicer
from picod._types import FileInfo, FileType
from picod._wire import file_info
from tests.picod.fake_work import FakeWork, error_info, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

Request = picod_pb2.WriteFileRequest
CREATE = Request.Open.MODE_CREATE
SERVICE = picod_pb2.DESCRIPTOR.services_by_name["PicoD"]
SERVED = {
    "Execute",
    "ReadFile",
    "WriteFile",
    "Stat",
    "ListDirectory",
    "MakeDirectory",
    "Move",
    "Remove",
    "RunCode",
    "CreateContext",
    "ListContexts",
    "RestartContext",
    "DeleteContext",
}


def opened(path: bytes = b"f", mode: Any = CREATE) -> picod_pb2.WriteFileRequest:
    return Request(open=Request.Open(path=path, mode=mode))


def data(value: bytes) -> picod_pb2.WriteFileRequest:
    return Request(data=value)


def committed(size: int) -> picod_pb2.WriteFileRequest:
    return Request(commit=Request.Commit(size=size))


async def sent(
    messages: Iterable[picod_pb2.WriteFileRequest],
) -> AsyncIterator[picod_pb2.WriteFileRequest]:
    for message in messages:
        yield message


async def ended(call: Any) -> None:
    """Wait for the end of *call*, whatever its kind."""
    if hasattr(call, "__aiter__"):
        [_ async for _ in call]
    else:
        await call


async def refusal(call: Any) -> tuple[str, str]:
    """Return how *call* was refused: the code's name and the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ended(call)
    code, domain, reason = error_info(caught.value)
    assert domain == "cubemesh"
    return code.name, reason


async def test_streams_started_output_exited(tmp_path: Path) -> None:
    """Each event of a command arrives, in its order, with all its fields."""
    async with serving(FakeWork(), tmp_path) as (stub, _):
        call = stub.Execute(picod_pb2.ExecuteRequest(argv=["echo", "hi", "you"]))
        started, output, exited = [e async for each in call for e in each.events]
    assert (started.started.process_id, started.started.pid) == ("p1", 7)
    assert output.output == picod_pb2.Output(
        stream=picod_pb2.Output.STREAM_STDOUT, offset=0, data=b"hi you"
    )
    assert (exited.exited.code, exited.exited.WhichOneof("status")) == (3, "code")
    assert exited.exited.cause == picod_pb2.Exited.CAUSE_ENDED
    assert exited.exited.duration.ToMilliseconds() == 250


async def test_passes_the_whole_command_on(tmp_path: Path) -> None:
    """The session's environment is there for each command, which may override it."""
    request = picod_pb2.ExecuteRequest(
        argv=["echo"], environment={"B": "2"}, working_directory=b"\xff", stdin=b"in"
    )
    request.timeout.FromMilliseconds(1500)
    work = FakeWork()
    async with serving(work, tmp_path) as (stub, _):
        [_ async for _ in stub.Execute(request)]
        request.environment["A"] = "mine"
        [_ async for _ in stub.Execute(request)]
    first, second = work.commands
    assert first.environment == {"A": "1", "B": "2"}
    assert second.environment == {"A": "mine", "B": "2"}
    assert (first.cwd, first.stdin, first.timeout) == (b"\xff", b"in", 1.5)


async def test_refusals_carry_their_reason(tmp_path: Path) -> None:
    """What the runner refuses reaches the caller as status and reason."""
    async with serving(FakeWork(), tmp_path) as (stub, _):
        unknown = stub.Execute(picod_pb2.ExecuteRequest(argv=["nothing"]))
        assert await refusal(unknown) == ("NOT_FOUND", "COMMAND_NOT_FOUND")
        empty = stub.Execute(picod_pb2.ExecuteRequest())
        assert await refusal(empty) == ("INVALID_ARGUMENT", "INVALID_COMMAND")
        gone = stub.Stat(picod_pb2.StatRequest(path=b"x"))
        assert await refusal(gone) == ("NOT_FOUND", "FILE_NOT_FOUND")
        missing = stub.ReadFile(picod_pb2.ReadFileRequest(path=b"x"))
        assert await refusal(missing) == ("NOT_FOUND", "FILE_NOT_FOUND")


def test_every_error_has_its_status() -> None:
    """No error of the runner can show as INTERNAL for want of a line in the table."""
    kinds = {kind for kind in ERRORS_BY_REASON.values() if "reason" in vars(kind)}
    kinds -= {IsolationError, PicoDError}
    assert {kind: TABLE[kind].reason for kind in kinds} == {
        kind: kind.reason for kind in kinds
    }


async def test_streams_what_code_does(tmp_path: Path) -> None:
    """Each event of a call arrives, in its order, with all its fields."""
    work = FakeWork()
    request = picod_pb2.RunCodeRequest(code="x", language="py")
    request.timeout.FromMilliseconds(1500)
    async with serving(work, tmp_path) as (stub, _):
        call = stub.RunCode(request)
        events = [event async for each in call for event in each.events]
    assert work.code.asked == [Code("x", "", "python", {"A": "1"}, 1.5)]
    started, output, result, error, finished = events
    assert started.started == picod_pb2.CodeStarted(
        context_id="ctx-1", execution_count=4, notice="new"
    )
    assert output.output.data == b"said"
    assert result.result == picod_pb2.Result(
        main=True,
        data={"text/plain": b"4", "image/png": b"\x89"},
        cut={"x": "cut"},
    )
    assert (error.error.name, error.error.value) == ("KeyError", "'k'")
    assert error.error.traceback == "Traceback …"
    told = finished.finished
    assert told.cause == picod_pb2.CodeFinished.CAUSE_TIMEOUT
    assert (told.duration.ToMilliseconds(), told.state_lost) == (1500, True)
    assert (told.output_omitted, told.results_omitted) == (7, 8)


async def test_contexts_over_the_wire(tmp_path: Path) -> None:
    """Create, list, restart, delete: each reaches the runner and comes back."""
    work = FakeWork()
    async with serving(work, tmp_path) as (stub, _):
        made = await stub.CreateContext(
            picod_pb2.CreateContextRequest(
                working_directory=b"/w", environment={"B": "2"}
            )
        )
        assert work.code.asked == [NewContext("python", b"/w", {"A": "1", "B": "2"})]
        listed = await stub.ListContexts(picod_pb2.ListContextsRequest())
        assert list(listed.contexts) == [made.context]
        assert made.context == picod_pb2.Context(
            context_id="ctx-1",
            language="python",
            working_directory=b"/w\xff",
            execution_count=3,
            busy=True,
            waiting=2,
        )
        (imported,) = listed.imports
        assert (imported.name, imported.memory_bytes) == ("numpy", 4096)
        assert (imported.duration.ToMilliseconds(), imported.error) == (250, "no")
        asked = picod_pb2.RestartContextRequest(context_id="ctx-1")
        assert (await stub.RestartContext(asked)).context == made.context
        await stub.DeleteContext(picod_pb2.DeleteContextRequest(context_id="ctx-1"))
        assert work.code.asked[-1] == "ctx-1"


async def test_refusals_of_code_carry_their_reason(tmp_path: Path) -> None:
    """What cannot run is refused with status and reason."""
    async with serving(FakeWork(), tmp_path) as (stub, _):
        asking = picod_pb2.RunCodeRequest
        for request, wanted in (
            (asking(code="1", language="cobol"), "LANGUAGE_NOT_AVAILABLE"),
            (asking(code="1", context_id="no"), "CONTEXT_NOT_FOUND"),
            (asking(code="\0"), "INVALID_REQUEST"),
            (asking(code="x" * 1_048_577), "INVALID_REQUEST"),
        ):
            assert (await refusal(stub.RunCode(request)))[1] == wanted
        asked = picod_pb2.DeleteContextRequest(context_id="no")
        assert await refusal(stub.DeleteContext(asked)) == (
            "NOT_FOUND",
            "CONTEXT_NOT_FOUND",
        )


async def test_a_caller_who_hangs_up_ends_the_code(tmp_path: Path) -> None:
    """No code outlives the call that asked for it."""
    work = FakeWork()
    async with serving(work, tmp_path) as (stub, sandbox), asyncio.timeout(5):
        call = stub.RunCode(picod_pb2.RunCodeRequest(code="wait"))
        await work.code.running.wait()
        assert sandbox.open_calls == 1
        call.cancel()
        await work.code.idle.wait()
    assert sandbox.open_calls == 0


async def test_a_caller_who_hangs_up_ends_the_command(tmp_path: Path) -> None:
    """No command outlives the call that asked for it."""
    work = FakeWork()
    async with serving(work, tmp_path) as (stub, sandbox), asyncio.timeout(5):
        call = stub.Execute(picod_pb2.ExecuteRequest(argv=["wait"]))
        await work.running.wait()
        assert sandbox.open_calls == 1
        call.cancel()
        await work.idle.wait()
    assert sandbox.open_calls == 0


async def test_a_deadline_ends_the_command(tmp_path: Path) -> None:
    """A passed deadline is a hang-up, too."""
    work = FakeWork()
    async with serving(work, tmp_path) as (stub, _), asyncio.timeout(5):
        call = stub.Execute(picod_pb2.ExecuteRequest(argv=["wait"]), timeout=0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in call]
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await work.idle.wait()


async def test_a_slow_reader_holds_the_command_back(tmp_path: Path) -> None:
    """Nothing is piled up for a caller who does not read."""
    work = FakeWork()
    async with serving(work, tmp_path) as (stub, _), asyncio.timeout(5):
        call = stub.Execute(picod_pb2.ExecuteRequest(argv=["flood"]))
        await call.read()
        seen = -1
        while seen != work.written:
            seen = work.written
            await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.1)
        assert work.written < 8 << 20
        call.cancel()
        await work.idle.wait()


async def test_nobody_is_served_before_the_binding(tmp_path: Path) -> None:
    """A warm sandbox belongs to nobody, on every method."""
    async with serving(FakeWork(), tmp_path, bound=False) as (stub, _):
        for name in sorted(SERVED - {"WriteFile"}):
            request = GetMessageClass(SERVICE.methods_by_name[name].input_type)()
            call = getattr(stub, name)(request)
            assert await refusal(call) == ("FAILED_PRECONDITION", "NOT_BOUND"), name
        call = stub.WriteFile(sent([opened(), committed(0)]))
        assert await refusal(call) == ("FAILED_PRECONDITION", "NOT_BOUND")


async def test_methods_of_later_say_so(tmp_path: Path) -> None:
    """A method without a handler answers in our words, with a reason."""
    async with serving(FakeWork(), tmp_path) as (stub, _):
        later = [m for m in SERVICE.methods if m.name not in SERVED]
        assert later
        for method in later:
            message = GetMessageClass(method.input_type)()
            request: Any = sent([opened()]) if method.client_streaming else message
            call = getattr(stub, method.name)(request)
            assert await refusal(call) == ("UNIMPLEMENTED", "NOT_YET_SERVED")


def test_every_method_has_a_handler() -> None:
    """A method that is added to the contract cannot be forgotten here."""
    assert {m.name for m in SERVICE.methods} <= set(vars(PicoDServicer))


async def test_files_go_there_and_back(tmp_path: Path) -> None:
    """Upload, read, list, move, remove: each reaches the runner and comes back."""
    work = FakeWork()
    async with serving(work, tmp_path) as (stub, _):
        parts = [opened(b"a"), data(b"one"), data(b"two"), committed(6)]
        answer = await stub.WriteFile(sent(parts))
        assert (answer.info.path, answer.info.size) == (b"a", 6)
        request = picod_pb2.ReadFileRequest(path=b"a", offset=1, length=3)
        info, body = [part async for part in stub.ReadFile(request)]
        assert (info.info.size, body.data) == (6, b"net")
        made = await stub.MakeDirectory(
            picod_pb2.MakeDirectoryRequest(path=b"d", permissions=0o700)
        )
        assert (made.info.type, made.info.mode) == (2, 0o700)
        await stub.Move(picod_pb2.MoveRequest(source=b"a", target=b"b\n\xff"))
        listed = stub.ListDirectory(picod_pb2.ListDirectoryRequest(path=b""))
        names = [entry.name async for part in listed for entry in part.entries]
        assert names == [b"b\n\xff"]
        await stub.Remove(picod_pb2.RemoveRequest(path=b"b\n\xff"))
    assert work.files == {}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "UPLOAD_NOT_COMMITTED"),
        ([opened()], "UPLOAD_NOT_COMMITTED"),
        ([opened(), data(b"x")], "UPLOAD_NOT_COMMITTED"),
        ([data(b"x")], "INVALID_REQUEST"),
        ([committed(0)], "INVALID_REQUEST"),
        ([Request()], "INVALID_REQUEST"),
        ([opened(), opened()], "INVALID_REQUEST"),
        ([opened(), Request()], "INVALID_REQUEST"),
        ([opened(), data(b""), committed(0)], "INVALID_REQUEST"),
        ([opened(), data(bytes((1 << 20) + 1)), committed(0)], "INVALID_REQUEST"),
        ([opened(mode=0)], "INVALID_REQUEST"),
        ([opened(mode=9)], "INVALID_REQUEST"),
        ([opened(), data(b"x"), committed(2)], "SIZE_MISMATCH"),
    ],
)
async def test_an_upload_that_is_not_whole_changes_nothing(
    tmp_path: Path, messages: list[picod_pb2.WriteFileRequest], reason: str
) -> None:
    """Only `open`, `data`…, `commit` with the right size makes a file."""
    work = FakeWork()
    async with serving(work, tmp_path) as (stub, _):
        assert (await refusal(stub.WriteFile(sent(messages))))[1] == reason
    assert work.files == {}


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_an_upload_cancelled_anywhere_is_discarded(
    tmp_path: Path, after: int
) -> None:
    """A cancelled upload looks like a finished one; the missing commit tells."""
    work = FakeWork()
    messages = [opened(), data(b"x" * 10), data(b"y" * 10)]
    async with serving(work, tmp_path) as (stub, sandbox), asyncio.timeout(5):
        call = stub.WriteFile()
        for message in messages[:after]:
            await call.write(message)
        while work.written < 10 * max(0, after - 1) or (
            after and not work.running.is_set()
        ):
            await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.005)
        call.cancel()
        if after:
            await work.idle.wait()
    assert work.files == {}
    assert work.discarded == (1 if after else 0)
    assert sandbox.open_calls == 0


def test_strange_times_stay_within_a_timestamp() -> None:
    """Code inside may set any time on a file; the caller can still read it."""
    for nanoseconds in (-(10**22), 10**22):
        info = FileInfo(b"", b"", FileType.OTHER, 0, 0, nanoseconds, b"")
        file_info(info).modified.ToDatetime()
