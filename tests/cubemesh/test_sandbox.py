from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from cubemesh import (
    AsyncSandbox,
    CommandExited,
    CommandFailedError,
    CommandNotFoundError,
    CommandOutput,
    CommandStarted,
    InvalidRequestError,
    OverloadedError,
    SandboxFileExistsError,
    SandboxFileNotFoundError,
    SessionNotFoundError,
    UnavailableError,
)
from cubemesh._session import Mesh as Mesh_
from cubemesh._session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cubemesh.conftest import Mesh


@pytest.fixture
async def sandbox(mesh: Mesh) -> AsyncIterator[AsyncSandbox]:
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        yield sandbox


class TestLife:
    async def test_leaving_the_block_ends_what_it_made(self, mesh: Mesh) -> None:
        """Nothing stays behind when the block is left."""
        async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
            assert [sandbox.session_id] == list(mesh.router.sessions)
        assert mesh.router.sessions == {}

    async def test_a_cancelled_block_still_ends_the_sandbox(self, mesh: Mesh) -> None:
        """Cancelling the caller does not leave its sandbox behind."""

        async def use() -> None:
            async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
                await sandbox.commands.run("hang")

        task = asyncio.ensure_future(use())
        await mesh.router.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mesh.router.sessions == {}
        await asyncio.wait_for(mesh.router.hung_up.wait(), 5)

    async def test_a_connected_sandbox_lives_on(
        self, mesh: Mesh, sandbox: AsyncSandbox
    ) -> None:
        """Who did not make it does not end it."""
        name = sandbox.session_id
        async with await AsyncSandbox.connect(name, profile=mesh.profile) as other:
            assert (await other.commands.run(["hi"])).stdout == "hi"
        assert name in mesh.router.sessions

    async def test_an_unknown_session_is_told_at_once(self, mesh: Mesh) -> None:
        """`connect` does not wait for the first command to find out."""
        with pytest.raises(SessionNotFoundError) as caught:
            await AsyncSandbox.connect("ses-none", profile=mesh.profile)
        assert caught.value.reason == "SESSION_NOT_FOUND"
        assert caught.value.code == "NOT_FOUND"

    async def test_killing_what_is_over_is_fine(
        self, mesh: Mesh, sandbox: AsyncSandbox
    ) -> None:
        """Two who end the same sandbox do not trip over each other."""
        mesh.router.sessions.clear()
        await sandbox.kill()

    async def test_lists_over_all_pages(self, mesh: Mesh) -> None:
        """All sessions come, however the mesh cuts its answers."""
        for _ in range(3):
            await (await AsyncSandbox.create(profile=mesh.profile)).close()
        found = await AsyncSandbox.list(profile=mesh.profile)
        assert [info.session_id for info in found] == ["ses-1", "ses-2", "ses-3"]
        assert {info.state for info in found} == {"ready"}
        assert {info.start for info in found} == {"warm"}

    async def test_tells_what_was_asked_for(self, mesh: Mesh) -> None:
        """Times, template and environment reach the mesh, with an idempotency key."""
        made = await AsyncSandbox.create(
            template="python",
            lifetime=90,
            idle_timeout=1.5,
            environment={"A": "b"},
            files={"in.csv": b"\xff", "ü/main.py": "ü"},
            secrets={"KEY": "s3cret", "raw": b"\xff"},
            profile=mesh.profile,
        )
        await made.close()
        request = mesh.router.created[0]
        files = [(each.path, each.content) for each in request.files]
        assert files == [(b"in.csv", b"\xff"), ("ü/main.py".encode(), "ü".encode())]
        assert dict(request.secrets) == {"KEY": b"s3cret", "raw": b"\xff"}
        assert (request.lifetime.seconds, request.idle_timeout.nanos) == (90, 500000000)
        assert dict(request.environment) == {"A": "b"}
        assert mesh.router.metadata[0]["x-cubemesh-idempotency-key"]

    @pytest.mark.parametrize(
        "told",
        [{"files": {"big": bytes(2 << 20)}}, {"secrets": {"BIG": bytes(256 << 10)}}],
        ids=["files", "secrets"],
    )
    async def test_what_no_message_takes_is_refused_here(
        self, mesh: Mesh, told: dict[str, Any]
    ) -> None:
        """GRPC's own limit would tell nobody what to do; this names the way."""
        with pytest.raises(InvalidRequestError) as caught:
            await AsyncSandbox.create(profile=mesh.profile, **told)
        assert caught.value.reason == "BINDING_TOO_LARGE"
        assert caught.value.metadata == {"field": next(iter(told))}
        assert "sandbox.files.write" in caught.value.hint
        assert mesh.router.created == []

    async def test_a_full_mesh_says_when_to_come_again(self, mesh: Mesh) -> None:
        """RetryInfo becomes `retry_after`, in seconds."""
        with pytest.raises(OverloadedError) as caught:
            await AsyncSandbox.create(template="full", profile=mesh.profile)
        assert caught.value.retry_after == 1.5

    @pytest.mark.slow
    async def test_no_mesh_gives_a_hint(self, mesh: Mesh) -> None:
        """Who forgot to start the mesh is told so."""
        gone = type(mesh.profile)(
            "127.0.0.1:1",
            mesh.profile.ca_file,
            mesh.profile.cert_file,
            mesh.profile.key_file,
        )
        with pytest.raises(UnavailableError) as caught:
            await AsyncSandbox.list(profile=gone)
        assert "cubemesh up" in caught.value.hint


class TestCommands:
    async def test_text_goes_to_a_shell_and_lists_do_not(
        self, mesh: Mesh, sandbox: AsyncSandbox
    ) -> None:
        """Nothing of a list is read by a shell."""
        await sandbox.commands.run("echo $A; true")
        await sandbox.commands.run(["echo", "$A; true"])
        assert [list(request.argv) for request in mesh.router.executed] == [
            ["/bin/sh", "-c", "echo $A; true"],
            ["echo", "$A; true"],
        ]

    async def test_returns_what_was_written(self, sandbox: AsyncSandbox) -> None:
        """Output, status and time come together."""
        result = await sandbox.commands.run(["say"])
        assert (result.stdout, result.stderr, result.exit_code) == ("say", "oh", 0)
        assert (result.stdout_bytes, result.duration) == (b"say", 2.0)

    async def test_a_failure_is_a_result(self, sandbox: AsyncSandbox) -> None:
        """Only `check` turns a status into an error."""
        assert (await sandbox.commands.run(["exit", "3"])).exit_code == 3
        with pytest.raises(CommandFailedError) as caught:
            await sandbox.commands.run(["exit", "3"], check=True)
        assert caught.value.result.exit_code == 3

    async def test_signals_and_timeouts_have_statuses(
        self, sandbox: AsyncSandbox
    ) -> None:
        """As in a shell: 128 + n, and 124 for a timeout."""
        killed = await sandbox.commands.run(["killed"])
        assert (killed.exit_code, killed.signal, killed.timed_out) == (137, 9, False)
        slow = await sandbox.commands.run(["slow"], timeout=1)
        assert (slow.exit_code, slow.timed_out) == (124, True)

    async def test_callbacks_hear_whole_characters(self, sandbox: AsyncSandbox) -> None:
        """A character cut in two arrives once; half a one is replaced at the end."""
        heard: list[str] = []
        await sandbox.commands.run(["cut"], on_stdout=heard.append)
        assert heard == ["ä", "\N{REPLACEMENT CHARACTER}"]

    async def test_a_coroutine_may_listen(self, sandbox: AsyncSandbox) -> None:
        """A callback that must be awaited is awaited."""
        heard: list[str] = []

        async def hear(text: str) -> None:
            heard.append(text)

        await sandbox.commands.run(["say"], on_stdout=hear, on_stderr=hear)
        assert heard == ["say", "oh"]

    async def test_streams_events(self, sandbox: AsyncSandbox) -> None:
        """Started, output, exited: in this order, as values."""
        kinds = [type(event) async for event in sandbox.commands.stream(["say"])]
        assert kinds == [CommandStarted, CommandOutput, CommandOutput, CommandExited]

    async def test_closing_the_stream_hangs_up(
        self, mesh: Mesh, sandbox: AsyncSandbox
    ) -> None:
        """A stream left early ends its command."""
        async with aclosing(sandbox.commands.stream("hang")) as events:
            async for event in events:
                if isinstance(event, CommandOutput):
                    break
        await asyncio.wait_for(mesh.router.hung_up.wait(), 5)

    async def test_a_missing_program(self, sandbox: AsyncSandbox) -> None:
        """The reason becomes a class."""
        with pytest.raises(CommandNotFoundError, match="no such program: missing"):
            await sandbox.commands.run(["missing"])

    async def test_the_arguments_reach_the_sandbox(
        self, mesh: Mesh, sandbox: AsyncSandbox
    ) -> None:
        """Environment, folder, input and timeout go as they were given."""
        await sandbox.commands.run(
            ["x"], env={"A": "b"}, cwd="sub", stdin="ä", timeout=2.5
        )
        request = mesh.router.executed[0]
        assert dict(request.environment) == {"A": "b"}
        assert (request.working_directory, request.stdin) == (b"sub", "ä".encode())
        assert (request.timeout.seconds, request.timeout.nanos) == (2, 500000000)

    async def test_no_time_at_all_is_refused(self, sandbox: AsyncSandbox) -> None:
        """A timeout of nothing is a mistake, not a wish for no timeout."""
        with pytest.raises(ValueError, match="above zero"):
            await sandbox.commands.run("x", timeout=0)


class TestFiles:
    async def test_what_was_written_is_read(self, sandbox: AsyncSandbox) -> None:
        """Bytes and text come back as they were, over many messages."""
        content = bytes(range(256)) * 3000
        info = await sandbox.files.write("data", content)
        assert info.size == len(content)
        assert await sandbox.files.read("data") == content
        assert await sandbox.files.read("data", offset=256, length=2) == b"\x00\x01"
        assert await sandbox.files.read("data", length=0) == b""
        await sandbox.files.write("text", "grün")
        assert await sandbox.files.read_text("text") == "grün"

    async def test_appends(self, sandbox: AsyncSandbox) -> None:
        """Appending makes the file, then adds to it."""
        await sandbox.files.append("log", "a")
        await sandbox.files.append("log", b"b")
        assert await sandbox.files.read("log") == b"ab"

    async def test_does_not_replace_unasked(self, sandbox: AsyncSandbox) -> None:
        """With *replace* off an existing file stays as it is."""
        await sandbox.files.write("data", b"1")
        with pytest.raises(SandboxFileExistsError):
            await sandbox.files.write("data", b"2", replace=False)

    async def test_up_and_down(self, sandbox: AsyncSandbox, tmp_path: Path) -> None:
        """A file of this machine survives the way there and back."""
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(content := b"0123456789" * 100_000)
        source.chmod(0o755)
        info = await sandbox.files.upload(source, "copy")
        assert info.mode == 0o755
        assert await sandbox.files.download("copy", target) == len(content)
        assert target.read_bytes() == content

    async def test_a_failed_download_leaves_nothing(
        self, sandbox: AsyncSandbox, tmp_path: Path
    ) -> None:
        """No half file appears on this machine, and no draft stays."""
        folder = tmp_path / "empty"
        folder.mkdir()
        with pytest.raises(SandboxFileNotFoundError):
            await sandbox.files.download("none", folder / "target")
        assert list(folder.iterdir()) == []

    async def test_an_upload_refused_midway_tells_why(
        self, mesh: Mesh, sandbox: AsyncSandbox
    ) -> None:
        """The real status arrives though messages are still being sent."""
        mesh.router.refuse_upload_after = 600_000
        for _ in range(5):
            with pytest.raises(Exception, match="the workspace is full") as caught:
                await sandbox.files.write("big", b"x" * 8_000_000)
            assert getattr(caught.value, "reason", "") == "NO_SPACE"

    async def test_an_upload_that_cannot_be_read_is_not_committed(
        self, mesh: Mesh, sandbox: AsyncSandbox, tmp_path: Path
    ) -> None:
        """A folder in place of a file fails here, and nothing appears there."""
        with pytest.raises(IsADirectoryError):
            await sandbox.files.upload(tmp_path, "copy")
        assert mesh.router.sessions[sandbox.session_id] == {}

    @pytest.mark.slow
    async def test_an_upload_to_no_mesh_fails_instead_of_waiting(
        self, mesh_files: Mesh
    ) -> None:
        """A call that never began does not wait for its own beginning."""
        session = Session(Mesh_.join(mesh_files.profile), "ses-x")
        sandbox = AsyncSandbox(session, made_here=False)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(sandbox.files.write("x", b"x"), 20)
        await sandbox.close()

    async def test_names_that_are_not_utf8(self, sandbox: AsyncSandbox) -> None:
        """Any name survives the way there and back, as `os.fsdecode` writes it."""
        await sandbox.files.write(b"\xff\n", b"x")
        (info,) = await sandbox.files.list()
        assert info.name == "\udcff\n"
        assert await sandbox.files.read(info.path) == b"x"

    async def test_stat_exists_move_remove(self, sandbox: AsyncSandbox) -> None:
        """The small calls do what their names say."""
        await sandbox.files.write("a", b"x")
        assert (await sandbox.files.stat("a")).type == "file"
        await sandbox.files.move("a", "b")
        assert not await sandbox.files.exists("a")
        await sandbox.files.remove("b")
        assert await sandbox.files.list() == ()
