"""PicoD as a real process: what it serves, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

from cubemesh.v1 import picod_pb2
from tests.picod.fake_work import error_info
from tests.picod.process import (
    METADATA,
    SANDBOX,
    SESSION,
    PicoD,
    denied,
    identity,
    stat,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from cubemesh.v1.picod_pb2_grpc import PicoDAsyncStub

pytestmark = pytest.mark.slow

Request = picod_pb2.WriteFileRequest


@pytest.fixture
def picod() -> Iterator[PicoD]:
    with PicoD() as process:
        yield process


def execute(*argv: str) -> picod_pb2.ExecuteRequest:
    return picod_pb2.ExecuteRequest(argv=argv)


async def output(stub: PicoDAsyncStub, *argv: str) -> bytes:
    call = stub.Execute(execute(*argv), metadata=METADATA)
    return b"".join([e.output.data async for each in call for e in each.events])


async def read_out(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def reason(call: Any) -> tuple[str, str]:
    """Return the code and the reason that ended *call*."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_out(call)
    code, _, why = error_info(caught.value)
    return code.name, why


def opened(path: bytes) -> picod_pb2.WriteFileRequest:
    return Request(open=Request.Open(path=path, mode=Request.Open.MODE_TRUNCATE))


def gone(picod: PicoD) -> bool:
    """Say whether nothing is left of what ran inside."""
    return not any(each.is_running() for each in picod.inside)


def there(path: Path) -> bool:
    return path.exists()


async def test_serves_commands_and_files(picod: PicoD) -> None:
    """A command sees the session's environment and the files of the workspace."""

    async def upload() -> AsyncIterator[picod_pb2.WriteFileRequest]:
        yield opened(b"n\n\xff")
        yield Request(data=b"data")
        yield Request(commit=Request.Commit(size=4))

    await picod.bind()
    async with picod.routed() as stub:
        await stub.WriteFile(upload(), metadata=METADATA)
        assert await output(stub, "sh", "-c", "cat n*; echo $TOLD") == b"dataat bind\n"
        read = stub.ReadFile(
            picod_pb2.ReadFileRequest(path=b"/workspace/n\n\xff"), metadata=METADATA
        )
        assert [part.data async for part in read] == [b"", b"data"]


async def test_is_bound_once(picod: PicoD) -> None:
    """Before the binding nobody is served, and a second one is refused."""
    async with picod.routed() as stub:
        assert (await denied(stub.Stat(stat(), metadata=METADATA)))[0] == (
            "FAILED_PRECONDITION"
        )
        await picod.bind()
        await stub.Stat(stat(), metadata=METADATA)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await picod.bind()
    assert error_info(caught.value)[2] == "ALREADY_BOUND"


async def test_status_tells_how_it_is(picod: PicoD) -> None:
    """The WorkloadManager learns whose it is, what runs, and what holds it in."""
    await picod.bind()
    async with picod.controlled() as control, picod.routed() as stub:
        call = stub.Execute(execute("sleep", "60"), metadata=METADATA)
        await call.read()
        status = await control.Status(picod_pb2.StatusRequest())
        assert (status.sandbox_id, status.session_id) == (SANDBOX, SESSION)
        assert (status.ready, status.open_calls, status.last_fault) == (True, 1, "")
        assert status.isolation.level == "bwrap"
        assert status.isolation.limits["memory_bytes"] == 1 << 30
        call.cancel()


@pytest.mark.parametrize("how", ["shutdown", "signal"])
async def test_ends_with_everything_in_it(picod: PicoD, how: str) -> None:
    """Asked to end, it ends running commands, says why, and leaves nothing."""
    await picod.bind()
    async with picod.controlled() as control, picod.routed() as stub:
        call = stub.Execute(execute("sleep", "60"), metadata=METADATA)
        await call.read()
        if how == "shutdown":
            await control.Shutdown(picod_pb2.ShutdownRequest())
        else:
            picod.process.send_signal(signal.SIGTERM)
        assert await reason(call) == ("UNAVAILABLE", "SHUTTING_DOWN")
        assert await picod.ended() == 0
    assert gone(picod)
    assert not picod.data.exists()
    assert not picod.control.exists()


async def test_ends_when_its_time_is_up(picod: PicoD) -> None:
    """The binding's end holds without anybody who would enforce it."""
    await picod.bind(life=0.5)
    assert await picod.ended() == 0
    assert picod.records("sandbox expired")
    assert gone(picod)


async def test_ends_as_an_orphan() -> None:
    """Without a control connection it does not stay for ever; with one it does."""
    with PicoD("mtls", "--orphan-timeout", "1500ms") as picod:
        await picod.bind()
        async with picod.controlled() as control:
            await control.Status(picod_pb2.StatusRequest())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.5):
                    await until(lambda: picod.process.poll() is not None)
        assert await picod.ended() == 0
        assert picod.records("sandbox orphaned")


async def test_a_dead_runner_is_told_and_ends_it(picod: PicoD) -> None:
    """Calls get RUNNER_FAULT, the WorkloadManager reads it, then PicoD ends."""
    await picod.bind()
    async with picod.controlled() as control, picod.routed() as stub:
        call = stub.Execute(execute("sleep", "60"), metadata=METADATA)
        await call.read()
        picod.inside[0].kill()
        assert await reason(call) == ("UNAVAILABLE", "RUNNER_FAULT")
        await picod.logged("runner fault")
        later = stub.Execute(execute("true"), metadata=METADATA)
        assert await reason(later) == ("UNAVAILABLE", "RUNNER_FAULT")
        status = await control.Status(picod_pb2.StatusRequest())
        assert (status.ready, status.last_fault) == (False, "RUNNER_FAULT")
        assert await picod.ended() == 0


async def test_killed_it_leaves_nothing_inside(picod: PicoD) -> None:
    """PicoD killed with -9 takes its runner and all commands with it."""
    await picod.bind()
    async with picod.routed() as stub:
        call = stub.Execute(execute("sleep", "60"), metadata=METADATA)
        await call.read()
        inside = psutil.Process(picod.process.pid).children(recursive=True)
        picod.process.kill()
        await picod.ended()
        await until(lambda: not any(each.is_running() for each in inside))


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_an_upload_cancelled_anywhere_leaves_nothing(
    picod: PicoD, after: int
) -> None:
    """Neither the file nor a draft of it stays, and an old file stays whole."""
    await picod.bind()
    messages = [opened(b"f"), Request(data=b"x" * 1000), Request(data=b"y" * 1000)]
    async with picod.controlled() as control, picod.routed() as stub:
        await output(stub, "sh", "-c", "printf old > f")
        call = stub.WriteFile(metadata=METADATA)
        for message in messages[:after]:
            await call.write(message)
        await _open_calls(control, 1)
        call.cancel()
        await _open_calls(control, 0)
        assert await output(stub, "sh", "-c", "ls -A; cat f") == b"f\nold"


async def _open_calls(control: object, count: int) -> None:
    async with asyncio.timeout(10):
        while True:
            status = await control.Status(picod_pb2.StatusRequest())  # type: ignore[attr-defined]
            if status.open_calls == count:
                return


async def test_a_rotation_harms_no_call(picod: PicoD) -> None:
    """New files are taken up while a stream runs; it goes on, new calls as well."""
    await picod.bind()
    async with picod.routed() as stub:
        call = stub.Execute(execute("cat"), metadata=METADATA)
        async with aclosing(_ticks(stub)) as ticks:
            await anext(ticks)
            picod.sandboxes.write(picod.folder / "own", identity())
            await until(lambda: len(picod.records("identity loaded")) > 1)
            await anext(ticks)
            await stub.Stat(stat(), metadata=METADATA)
            await anext(ticks)
        events = [event async for each in call for event in each.events]
        assert [each.WhichOneof("event") for each in events] == ["started", "exited"]
    assert picod.records("identity loaded")[-1]["generation"] == 2


async def _ticks(stub: PicoDAsyncStub) -> AsyncGenerator[bytes, None]:
    argv = ("sh", "-c", "while :; do echo tick; sleep 0.05; done")
    async for message in stub.Execute(execute(*argv), metadata=METADATA):
        for event in message.events:
            if event.HasField("output"):
                yield event.output.data


async def test_isolation_none_works_and_cleans_up() -> None:
    """Without isolation the files go with the sandbox all the same."""
    with PicoD("mtls", "--isolation", "none") as picod:
        await picod.bind()
        async with picod.routed() as stub:
            folder = (await output(stub, "sh", "-c", "touch f; pwd")).decode().strip()
            await stub.Stat(stat(b"f"), metadata=METADATA)
        async with picod.controlled() as control:
            status = await control.Status(picod_pb2.StatusRequest())
            assert status.isolation.level == "none"
            await control.Shutdown(picod_pb2.ShutdownRequest())
        assert await picod.ended() == 0
        assert picod.records("no isolation")
    assert not there(Path(folder).parent)


async def test_refuses_another_sandboxs_identity(tmp_path: Path) -> None:
    """A sandbox that was handed the wrong certificate does not start."""
    picod = PicoD()
    other = identity("sbx-" + "c" * 26)
    paths = picod.sandboxes.write(tmp_path, other)
    flags = ("--mtls-cert-file", paths.chain, "--mtls-key-file", paths.key)
    code, said = await _fails([*picod.flags, *map(str, flags)])
    picod.discard()
    assert code == 78
    assert other in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--sandbox-id is not set"),
        (["--picod-auth-mode", "mtls"], "--sandbox-id is not set"),
    ],
)
async def test_says_what_it_was_not_told(flags: list[str], said: str) -> None:
    """A missing flag ends the process with 78 before anything is started."""
    code, text = await _fails(flags)
    assert code == 78
    assert f"error: {said}" in text


async def _fails(flags: list[str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "picod", *flags),
        cwd=Path(__file__).parents[2],
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()


@pytest.mark.root
@pytest.mark.parametrize("kill", [False, True])
async def test_a_control_group_is_made_and_goes(kill: bool) -> None:  # noqa: FBT001
    """Status says what keeps the limits, and what happened; who is killed leaves word.

    The file lies beside the socket: whoever removes that folder removes the groups.
    """
    with PicoD("mtls", "--limit", "memory=128MiB") as picod:
        await picod.bind()
        groups = [Path(line) for line in picod.groups.read_text().splitlines()]
        if not groups:
            pytest.skip("no control group can be made here")
        async with picod.routed() as stub, picod.controlled() as control:
            code = "held = b'x' * (1 << 26)"
            await asyncio.gather(*(output(stub, "python3", "-c", code) for _ in "123"))
            status = await control.Status(picod_pb2.StatusRequest())
        assert status.ready
        assert status.last_fault == "OUT_OF_MEMORY"
        assert status.isolation.limits_by.startswith("cgroup")
        assert status.isolation.limits["scratch_bytes"] == 32 << 20
        picod.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        await picod.ended()
        assert [group for group in groups if group.exists()] == groups * kill
        if kill:
            await until(lambda: not any(_processes(group) for group in groups))
            for group in groups:
                group.rmdir()


def _processes(group: Path) -> str:
    return (group / "cgroup.procs").read_text()
