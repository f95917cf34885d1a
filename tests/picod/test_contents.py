"""Files and secrets that a sandbox has from the start, in real sandboxes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from cubemesh.v1 import picod_pb2
from picod._contents import Contents
from picod._errors import (
    FileExistsInSandboxError,
    FileTooLargeError,
    InvalidPathError,
    NoSpaceError,
    NotAFolderError,
    PathOutsideWorkspaceError,
)
from picod._runner import Limits
from tests.isolation.levels import each_level, isolated
from tests.picod.fake_work import FakeWork, error_info
from tests.picod.process import METADATA, PicoD, denied, stat
from tests.picod.sandboxes import read, run, write

if TYPE_CHECKING:
    from picod._runner import Runner

SECRET = b"s3cret-of-the-session"
LOOK = "cd /run/secrets/ && stat -c '%n %a %u' * && cat KEY && touch /run/x"
WAYS = (
    b"/run/secrets/KEY",
    b"/dev/shm/secrets/KEY",
    b"../run/secrets/KEY",
    b"link/KEY",
    b"proc/secrets/KEY",
)


async def test_everything_is_written_as_write_file_does() -> None:
    """Files with their parents, then secrets, none left uncommitted."""
    work = FakeWork()
    await Contents([(b"a/b", b"1"), (b"c", b"")], {"KEY": SECRET}).put(work)
    assert work.files == {b"a/b": b"1", b"c": b"", b"KEY": SECRET}
    assert work.discarded == 0


async def test_nothing_costs_nothing() -> None:
    """Without contents the runner is asked for nothing, and no variable is set."""
    contents = Contents()
    await contents.put(FakeWork())
    assert contents.environment == {}


@each_level
@pytest.mark.slow
async def test_what_code_finds(level: str) -> None:
    """Its files, its secrets in memory, read-only and its own, beside nothing else."""
    async with isolated(level) as runner:
        await Contents([(b"d/in.csv", b"1,2")], {"KEY": SECRET, "a.b-c": b""}).put(
            runner
        )
        assert await read(runner, b"d/in.csv") == b"1,2"
        looked = await run(runner, "sh", "-c", LOOK)
        assert looked.stdout == b"KEY 400 1000\na.b-c 400 1000\n" + SECRET
        assert b"cannot touch '/run/x'" in looked.stderr
        where = await run(runner, "sh", "-c", "stat -fc %T /run/secrets/; pwd")
        assert where.stdout == b"tmpfs\n/workspace\n"


@each_level
@pytest.mark.slow
async def test_secrets_are_not_served(level: str) -> None:
    """No path of callers leads to them, unless code itself copies them."""
    async with isolated(level) as runner:
        await Contents((), {"KEY": SECRET}).put(runner)
        links = "ln -s /run/secrets link; ln -s /dev/shm/secrets/KEY file;"
        await run(runner, "sh", "-c", f"{links} ln -s /proc/self/root/dev/shm proc")
        for path in WAYS:
            await refused_everywhere(runner, path)
        with pytest.raises(PathOutsideWorkspaceError):
            await read(runner, b"file")
        await run(runner, "cp", "/run/secrets/KEY", "copy")
        assert await read(runner, b"copy") == SECRET


async def refused_everywhere(runner: Runner, path: bytes) -> None:
    with pytest.raises(PathOutsideWorkspaceError):
        await read(runner, path)
    with pytest.raises(PathOutsideWorkspaceError):
        await runner.stat(path)
    with pytest.raises(PathOutsideWorkspaceError):
        await runner.move(path, b"mine")
    with pytest.raises(PathOutsideWorkspaceError):
        await write(runner, path, b"")
    with pytest.raises(PathOutsideWorkspaceError):
        await runner.remove(path)
    with pytest.raises(PathOutsideWorkspaceError):
        [_ async for _ in runner.list_directory(path.removesuffix(b"/KEY"))]


@pytest.mark.slow
async def test_a_refusal_names_what_is_refused() -> None:
    """The error is that of WriteFile, and tells which of them it was."""
    small = Limits(memory=64 << 20, workspace=1 << 20, scratch=1 << 20)
    async with isolated("bwrap", limits=small) as runner:
        for contents, kind, said in (
            (Contents([(b"big", bytes(2 << 20))]), NoSpaceError, "file 'big': "),
            (Contents([(b"../x", b"")]), PathOutsideWorkspaceError, "file '../x': "),
            (Contents([(b"\0", b"")]), InvalidPathError, "file '\\\\x00': "),
            (Contents([(b"a", b""), (b"a", b"")]), FileExistsInSandboxError, "'a': "),
            (Contents([(b"a/b", b"")]), NotAFolderError, "file 'a/b': "),
            (Contents((), {"KEY": bytes(5 << 20)}), NoSpaceError, "secret 'KEY': "),
        ):
            with pytest.raises(kind, match=said):
                await contents.put(runner)
    async with isolated("bwrap", limits=Limits(file_size=10)) as runner:
        with pytest.raises(FileTooLargeError, match="secret 'KEY'"):
            await Contents((), {"KEY": bytes(11)}).put(runner)


@pytest.mark.slow
async def test_bind_answers_when_all_is_there() -> None:
    """The session finds its files, and the variable that names its secrets."""
    with PicoD() as picod:
        await picod.bind(
            files=[picod_pb2.NewFile(path=b"in", content=b"1")], secrets={"KEY": SECRET}
        )
        async with picod.routed() as stub:
            command = ["sh", "-c", "cat in $CUBEMESH_SECRETS/KEY; echo $TOLD"]
            call = stub.Execute(
                picod_pb2.ExecuteRequest(argv=command), metadata=METADATA
            )
            output = b"".join(
                [e.output.data async for told in call for e in told.events]
            )
        assert output == b"1" + SECRET + b"at bind\n"
        assert SECRET not in picod.log.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "code", "reason"),
    [
        (
            {"files": [picod_pb2.NewFile(path=b"../x")]},
            "INVALID_ARGUMENT",
            "PATH_OUTSIDE_WORKSPACE",
        ),
        ({"secrets": {"../KEY": SECRET}}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
    ],
    ids=["file", "secret"],
)
async def test_a_session_that_cannot_be_filled(
    told: dict[str, Any], code: str, reason: str
) -> None:
    """Bind tells why, and the sandbox serves nobody."""
    with PicoD() as picod:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await picod.bind(**told)
        assert error_info(caught.value)[0].name == code
        assert error_info(caught.value)[2] == reason
        async with picod.routed() as stub:
            assert (await denied(stub.Stat(stat(), metadata=METADATA)))[0] == (
                "FAILED_PRECONDITION"
            )
        assert SECRET not in picod.log.read_bytes()


@pytest.mark.slow
async def test_a_binding_that_failed_is_not_tried_again() -> None:
    """Half of it may be there already: such a sandbox is to be ended."""
    with PicoD() as picod:
        with pytest.raises(grpc.aio.AioRpcError):
            await picod.bind(files=[picod_pb2.NewFile(path=b"../x")])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await picod.bind()
        assert error_info(caught.value)[2] == "ALREADY_BOUND"


@pytest.mark.slow
async def test_without_isolation_there_is_no_place_for_secrets() -> None:
    """They are refused, rather than laid where others may read them."""
    with PicoD("mtls", "--isolation", "none") as picod:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await picod.bind(secrets={"KEY": SECRET})
        assert error_info(caught.value)[2] == "SECRETS_NOT_ISOLATED"
        await picod.bind(files=[picod_pb2.NewFile(path=b"in", content=b"1")])
        async with picod.routed() as stub:
            told = await stub.Stat(stat(b"in"), metadata=METADATA)
        assert told.info.size == 1


@pytest.mark.slow
def test_a_binding_at_the_start_brings_nothing() -> None:
    """Its refusal would be told to nobody: contents come by Bind alone."""
    picod = PicoD()
    descriptor = os.memfd_create("binding")
    os.write(
        descriptor, picod_pb2.BindRequest(secrets={"K": SECRET}).SerializeToString()
    )
    os.lseek(descriptor, 0, os.SEEK_SET)
    done = subprocess.run(
        [sys.executable, "-m", "picod", *picod.flags, "--binding-fd", str(descriptor)],
        pass_fds=[descriptor],
        env={"PATH": os.environ["PATH"]},  # noqa: TID251
        capture_output=True,
        check=False,
        timeout=60,
    )
    os.close(descriptor)
    picod.discard()
    assert done.returncode != 0
    assert b"a session with files or secrets" in done.stderr
    assert SECRET not in done.stderr + done.stdout
