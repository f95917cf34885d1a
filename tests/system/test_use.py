"""What users do, through real processes, in both modes of authentication."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from cubemesh import (
    CommandOutput,
    InvalidPathError,
    Sandbox,
    SandboxFileNotFoundError,
    SessionNotFoundError,
)
from tests.system.mesh import CUBEMESH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.system.mesh import Up

pytestmark = pytest.mark.slow


@pytest.fixture
def sandbox(mesh: Up) -> Iterator[Sandbox]:
    with Sandbox.create(profile=mesh.profile) as sandbox:
        yield sandbox


class TestRun:
    def test_prints_the_answer(self, mesh: Up) -> None:
        """Code goes in, its output comes back."""
        done = mesh.cli("run", "-c", "print(6*7)")
        assert (done.status, done.out, done.err) == (0, "42\n", "")

    def test_its_exit_status_is_ours(self, mesh: Up) -> None:
        """Scripts can tell how the code ended."""
        done = mesh.cli("run", "-", stdin=b"import sys; sys.exit(3)")
        assert done.status == 3

    def test_the_host_is_out_of_sight(self, mesh: Up) -> None:
        """An error from inside the sandbox arrives as it was written there."""
        done = mesh.cli("run", "-c", 'print(open("/etc/shadow").read())')
        assert (done.status, done.out) == (1, "")
        assert "No such file or directory: '/etc/shadow'" in done.err

    def test_signals_and_timeouts(self, mesh: Up) -> None:
        """128 + n for a signal, 124 for a timeout, as in a shell."""
        kill = "import os; os.kill(os.getpid(), 9)"
        assert mesh.cli("run", "-c", kill).status == 137
        wait = "import time; time.sleep(60)"
        assert mesh.cli("run", "--timeout", "1", "-c", wait).status == 124

    def test_files_arguments_environment_and_input(
        self, mesh: Up, tmp_path: Path
    ) -> None:
        """A script gets what it would get here."""
        script = tmp_path / "script.py"
        script.write_text(
            "import os, sys; print(sys.argv, os.environ['A'], sys.stdin.read())"
        )
        done = mesh.cli("run", "-i", "-e", "A=b", str(script), "--x", "y", stdin=b"in")
        assert done.out == "['script.py', '--x', 'y'] b in\n"

    def test_output_comes_as_it_is_written(self, mesh: Up) -> None:
        """The first line arrives while the code still runs; Ctrl-C then ends it."""
        code = "import time; print('first'); time.sleep(600)"
        environ = {**os.environ, "CUBEMESH_PROFILE": str(mesh.profile)}  # noqa: TID251
        process = subprocess.Popen(
            [*CUBEMESH, "run", "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"first\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        assert json.loads(mesh.cli("sessions", "--json").out) == []

    def test_json(self, mesh: Up) -> None:
        """Programs get one object."""
        done = mesh.cli("run", "--json", "-c", "print(1)")
        said = json.loads(done.out)
        assert (said["stdout"], said["exit_code"]) == ("1\n", 0)


class TestSessions:
    def test_a_session_from_the_command_line(
        self, mesh: Up, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """List, copy in, run, copy out, remove, end: all by the session's name."""
        name = sandbox.session_id
        (info,) = json.loads(mesh.cli("sessions", "--json").out)
        assert (info["session_id"], info["state"]) == (name, "ready")
        assert name in mesh.cli("sessions").out
        (there := tmp_path / "there").write_bytes(b"\x00data")
        assert mesh.cli("cp", str(there), f"{name}:in/", "-p").status == 0
        done = mesh.cli("exec", name, "--", "sh", "-c", "cat in/there; exit 4")
        assert (done.status, done.out) == (4, "\x00data")
        assert mesh.cli("cp", f"{name}:in/there", str(tmp_path / "back")).status == 0
        assert (tmp_path / "back").read_bytes() == b"\x00data"
        assert mesh.cli("cp", f"{name}:in/there", "-").out == "\x00data"
        assert mesh.cli("rm", "-r", f"{name}:in").status == 0
        done = mesh.cli("cp", f"{name}:in/there", "-")
        assert done.status == 125
        assert done.err.startswith("error: ")
        assert mesh.cli("kill", name).out == f"{name}\n"
        with pytest.raises(SessionNotFoundError):
            sandbox.commands.run("true")
        assert mesh.cli("kill", name).status == 125

    def test_logs_tell_of_a_session(self, mesh: Up, sandbox: Sandbox) -> None:
        """One name finds its lines in all services."""
        sandbox.commands.run("true")
        done = mesh.cli("logs", sandbox.session_id, "--json")
        services = {json.loads(line)["service"] for line in done.out.splitlines()}
        assert "router" in services
        assert "router" in mesh.cli("logs", "router", "-n", "1").out

    def test_doctor_finds_nothing_wrong(self, mesh: Up) -> None:
        """Where a mesh runs, every check is good."""
        done = mesh.cli("doctor", "--json")
        said = json.loads(done.out)
        assert [c for c in said["checks"] if not c["ok"]] == []
        assert (done.status, said["ok"]) == (0, True)

    def test_doctor_explains_certificates(self, mesh: Up) -> None:
        """The user is let in by the Router, and by nobody behind it."""
        done = mesh.cli("doctor", "certificates", "--json")
        said = json.loads(done.out)
        assert [c for c in said["checks"] if c["state"] != "ok"] == []
        assert (done.status, said["checks"][-1]["name"].split()[0]) == (0, "admission")
        manager = f"unix:{mesh.runtime}/wm.sock"
        done = mesh.cli("doctor", "certificates", "--json", "--target", manager)
        (failed,) = [c for c in json.loads(done.out)["checks"] if not c["ok"]]
        assert (done.status, failed["reason"]) == (1, "closed_after_handshake")
        assert failed["hint"] == "see the server's log for our ID"


class TestSandbox:
    def test_files_of_every_kind(self, sandbox: Sandbox) -> None:
        """The whole way to the disk of the sandbox and back."""
        sandbox.files.write("data.csv", b"a,b\n1,2\n")
        assert sandbox.commands.run("cat data.csv").stdout == "a,b\n1,2\n"
        big = os.urandom(5_000_000)
        sandbox.files.write("deep/big", big, make_parents=True)
        assert sandbox.files.read("deep/big") == big
        assert sandbox.files.read("deep/big", offset=7, length=9) == big[7:16]
        sandbox.files.append("log", "a")
        sandbox.files.append("log", "b")
        assert sandbox.files.read_text("log") == "ab"
        sandbox.files.mkdir("folder")
        sandbox.files.move("log", "folder/log")
        assert [info.name for info in sandbox.files.list("folder")] == ["log"]
        sandbox.commands.run(["ln", "-s", "/etc/passwd", "link"], check=True)
        assert sandbox.files.stat("link").symlink_target == "/etc/passwd"
        sandbox.files.remove("folder", recursive=True)
        assert not sandbox.files.exists("folder")

    def test_names_of_every_kind(self, sandbox: Sandbox) -> None:
        """Newlines and bytes that are not UTF-8 are only names."""
        for name in (b"a\nb", b"\xff\xfe", b" -rf "):
            sandbox.files.write(name, name)
            assert sandbox.files.read(name) == name

    def test_faults_have_classes(self, sandbox: Sandbox) -> None:
        """What goes wrong in the sandbox arrives as an error of its own kind."""
        with pytest.raises(SandboxFileNotFoundError):
            sandbox.files.read("none")
        with pytest.raises(InvalidPathError):
            sandbox.files.read("../../etc/shadow")
        with pytest.raises(InvalidPathError):
            sandbox.files.read("/dev/zero")

    def test_nothing_of_the_mesh_is_in_sight(self, mesh: Up, sandbox: Sandbox) -> None:
        """No key, no environment, no socket, no process of the host or of PicoD."""
        look = (
            "cat /proc/*/cmdline /proc/*/environ /proc/net/unix | tr '\\0' ' ';"
            f"ls -d {mesh.state} {mesh.runtime} /proc/*/root/{mesh.state};"
            "cat /proc/mounts"
        )
        result = sandbox.commands.run(look)
        # The command itself names the folders once, in its own command line.
        seen = result.stdout.replace(look, "")
        for secret in ("svid.pem", "key.pem", "workloadmanager", "CUBEMESH_"):
            assert secret not in seen
        assert "No such file" in result.stderr

    def test_sandboxes_do_not_see_each_other(self, mesh: Up, sandbox: Sandbox) -> None:
        """Neither files nor processes of another sandbox can be reached."""
        with Sandbox.create(profile=mesh.profile) as other:
            other.files.write("secret", b"x")
            other.files.write("/tmp/secret", b"x")
            events = other.commands.stream(["sleep", "4711"])
            next(events)
            seen = sandbox.commands.run("ls /workspace /tmp; cat /proc/*/cmdline")
            assert "secret" not in seen.stdout
            assert "4711" not in seen.stdout
            events.close()

    def test_environment_of_the_session(self, mesh: Up) -> None:
        """What `create` was told holds for every command, and is nowhere on disk."""
        secret = os.urandom(8).hex()
        made = Sandbox.create(profile=mesh.profile, environment={"TOKEN": secret})
        with made as sandbox:
            assert sandbox.commands.run("echo $TOKEN").stdout == f"{secret}\n"
            files = [path for path in mesh.state.rglob("*") if path.is_file()]
            assert not [path for path in files if secret.encode() in path.read_bytes()]

    def test_a_stream_left_early_kills_its_command(self, sandbox: Sandbox) -> None:
        """Nothing goes on running for nobody."""
        events = sandbox.commands.stream("echo here; sleep 4712")
        assert any(isinstance(event, CommandOutput) for event in events)
        events.close()
        after = sandbox.commands.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert "sleep 4712" not in after.stdout.replace("echo here", "")
