"""What goes wrong around a mesh: killed processes, taken ports, other folders."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cubemesh import (
    AsyncSandbox,
    CommandOutput,
    MeshError,
    Sandbox,
    SessionNotFoundError,
    UnavailableError,
)
from tests.system.mesh import CUBEMESH, Up, cubemesh, eventually, up

pytestmark = pytest.mark.slow
_ROOT = str(Path(__file__).parents[2])


class TestStart:
    def test_two_on_one_state_folder(self, tmp_path: Path) -> None:
        """The second is refused with a hint, the first does not notice."""
        with up(tmp_path) as mesh:
            other = ("up", "--state", str(mesh.state), "--profile", "/tmp/other.json")
            done = cubemesh(*other)
            assert done.status == 78
            assert "error: another `cubemesh up` uses the state folder" in done.err
            assert "hint: stop it, or choose another --state" in done.err
            assert mesh.cli("sessions").status == 0

    def test_two_on_one_profile(self, tmp_path: Path) -> None:
        """A second mesh does not take the first one's clients away."""
        with up(tmp_path) as mesh:
            state = str(tmp_path / "other")
            done = mesh.cli("up", "--state", state)
            assert done.status == 78
            assert "belongs to a mesh that runs" in done.err
            assert "hint: choose another name with --profile" in done.err
            assert mesh.cli("sessions").status == 0

    def test_two_side_by_side(self, tmp_path: Path) -> None:
        """With folders and profiles of their own two meshes do not meet."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with up(tmp_path / "a") as one, up(tmp_path / "b") as two:
            with Sandbox.create(profile=one.profile) as sandbox:
                foreign = two.cli("exec", sandbox.session_id, "--", "true")
            assert foreign.status == 125
            assert foreign.err.startswith("error: ")

    def test_a_port_in_use(self, tmp_path: Path) -> None:
        """The error names the address, and nothing is left running."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            state = tmp_path / "state"
            done = cubemesh(
                *("up", "--state", str(state), "--listen", listen),
                *("--profile", str(tmp_path / "profile.json")),
            )
        assert done.status != 0
        assert "error: router: " in done.err
        assert listen in done.err
        assert not (tmp_path / "profile.json").exists()
        assert _running_for(state) == []

    def test_a_very_long_state_folder(self, tmp_path: Path) -> None:
        """Sockets do not live there, so a long path is only a path."""
        deep = tmp_path.joinpath(*["x" * 60] * 4)
        deep.mkdir(parents=True)
        with up(deep) as mesh:
            assert mesh.cli("run", "-c", "print(1)").out == "1\n"

    def test_a_state_folder_beyond_reach(self, tmp_path: Path) -> None:
        """A path that the store cannot have is refused before anything starts."""
        state = tmp_path.joinpath(*["x" * 200] * 3)
        done = cubemesh("up", "--state", str(state))
        assert done.status == 78
        assert "hint: choose a shorter --state" in done.err

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (("--listen", "nonsense"), "listen"),
            (("--svid-ttl", "1s"), "svid-ttl"),
            (("--svid-ttl", "soon"), "soon"),
            (("--picod-auth-mode", "none"), "picod-auth-mode"),
        ],
    )
    def test_wrong_flags(
        self, tmp_path: Path, argv: tuple[str, ...], said: str
    ) -> None:
        """A wrong flag ends in words, and in no process."""
        state = tmp_path / "state"
        profile = str(tmp_path / "profile.json")
        done = cubemesh("up", "--state", str(state), "--profile", profile, *argv)
        assert done.status in {78, 125}
        assert "error: " in done.err
        assert said in done.err
        assert "Traceback" not in done.err
        assert _running_for(state) == []

    def test_user_namespaces_switched_off(self, tmp_path: Path) -> None:
        """The machine is looked at first; the remedy is exact, the status 78."""
        script = (
            "echo 0 > /proc/sys/user/max_user_namespaces &&"
            f"exec {' '.join(CUBEMESH)} up --state {tmp_path}/state"
        )
        done = subprocess.run(
            ["/usr/bin/unshare", "--user", "--map-root-user", "sh", "-c", script],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 78, done.stderr
        assert "user.max_user_namespaces: is 0" in done.stderr
        assert "sysctl -w user.max_user_namespaces=15000" in done.stderr
        assert not (tmp_path / "state").exists()

    def test_services_not_installed(self, tmp_path: Path) -> None:
        """Whoever has only the SDK is told what to install."""
        code = (
            "import sys, cubemesh.__main__ as command;"
            f"sys.path = [p for p in sys.path if p != {_ROOT!r}];"
            f"command.main(['up', '--state', {str(tmp_path / 'state')!r}])"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 78
        assert "services: missing: authority" in done.stderr
        assert "pip install cubemesh-services" in done.stderr


class TestKilled:
    def test_a_router(self, tmp_path: Path) -> None:
        """Sessions live on; the Router comes back at the same address."""
        with up(tmp_path) as mesh, Sandbox.create(profile=mesh.profile) as sandbox:
            sandbox.files.write("kept", b"x")
            events = sandbox.commands.stream("echo here; sleep 600")
            assert any(isinstance(event, CommandOutput) for event in _first(events, 2))
            router = mesh.service("router")
            router.kill()
            with pytest.raises(UnavailableError):
                list(events)
            eventually(lambda: _reads(sandbox, "kept") == b"x")
            assert mesh.service("router").pid != router.pid
            assert "router ended with signal 9" in mesh.errors.read_text()

    def test_a_workloadmanager(self, tmp_path: Path) -> None:
        """Running sessions do not notice, and the next one adopts them."""
        with up(tmp_path) as mesh, Sandbox.create(profile=mesh.profile) as sandbox:
            sandbox.files.write("kept", b"x")
            events = sandbox.commands.stream("sleep 3; echo on")
            next(events)
            mesh.service("workloadmanager").kill()
            assert sandbox.files.read("kept") == b"x"
            texts = [e.data for e in events if isinstance(e, CommandOutput)]
            assert texts == [b"on\n"]
            eventually(lambda: _is_listed(mesh, sandbox.session_id))
            assert mesh.cli("run", "-c", "print(1)").out == "1\n"
            sandbox.kill()
            with pytest.raises(SessionNotFoundError):
                sandbox.commands.run("true")

    def test_an_authority(self, tmp_path: Path) -> None:
        """Identities are still renewed after the one who makes them was killed."""
        with up(tmp_path, "--svid-ttl", "4s") as mesh:
            mesh.service("authority").kill()
            before = _loads(mesh)
            eventually(lambda: _loads(mesh) >= before + 2)
            assert mesh.cli("sessions").status == 0

    def test_up_itself(self, tmp_path: Path) -> None:
        """Its services go with it; sandboxes live, and the next one takes them over."""
        mesh = Up(tmp_path)
        sandbox = Sandbox.create(profile=mesh.profile)
        sandbox.files.write("kept", b"x")
        name = sandbox.session_id
        sandbox.close()
        services = [
            mesh.service(name) for name in ("authority", "workloadmanager", "router")
        ]
        mesh.end(signal.SIGKILL)
        _, alive = psutil.wait_procs(services, 30)
        assert alive == []
        with up(tmp_path) as mesh:
            with Sandbox.connect(name, profile=mesh.profile) as again:
                assert again.files.read("kept") == b"x"
            assert mesh.cli("kill", name).status == 0


class TestEnd:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_nothing_is_left(self, tmp_path: Path, how: signal.Signals) -> None:
        """No process, no socket, no file but the state folder; commands end, too."""
        with up(tmp_path) as mesh:
            sandbox = Sandbox.create(profile=mesh.profile)
            events = sandbox.commands.stream("setsid sleep 4713 & sleep 4713")
            next(events)
            inside = mesh.processes()
            assert len(inside) > 3
            assert mesh.end(how) == 0
            with pytest.raises(MeshError):
                list(events)
            _, alive = psutil.wait_procs(inside, 10)
            assert alive == []
            assert {path.name for path in tmp_path.iterdir()} == {"state", "up.err"}
            assert [p for p in mesh.state.rglob("*") if p.is_socket()] == []
            sandbox.close()

    def test_a_second_ctrl_c_hurries(self, tmp_path: Path) -> None:
        """A caller that does not let go delays the end only until the second one."""
        with up(tmp_path) as mesh:
            sandbox = Sandbox.create(profile=mesh.profile)
            events = sandbox.commands.stream("sleep 4714")
            next(events)
            mesh.process.send_signal(signal.SIGINT)
            eventually(lambda: not mesh.profile.exists())
            assert mesh.end() == 0
            sandbox.close()

    def test_ctrl_c_while_it_starts(self, tmp_path: Path) -> None:
        """A start that is interrupted leaves nothing either."""
        state = tmp_path / "state"
        process = subprocess.Popen(
            [
                *(*CUBEMESH, "up", "--state", str(state)),
                *("--profile", str(tmp_path / "profile.json")),
            ],
            stdout=subprocess.DEVNULL,
        )
        eventually(lambda: _running_for(state))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert _running_for(state) == []
        assert {path.name for path in tmp_path.iterdir()} == {"state"}


async def test_short_lived_identities(tmp_path: Path) -> None:
    """Certificates of five seconds: calls and a stream never notice."""
    mesh = await asyncio.to_thread(Up, tmp_path, "--svid-ttl", "5s")
    try:
        async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
            ticks = sandbox.commands.run(
                "for i in $(seq 150); do echo $i; sleep 0.1; done"
            )
            stream = asyncio.ensure_future(ticks)
            calls = 0
            while not stream.done():
                await sandbox.files.write("x", str(calls))
                assert await sandbox.files.read_text("x") == str(calls)
                calls += 1
            assert (await stream).stdout.split() == [str(i) for i in range(1, 151)]
            assert calls > 10
    finally:
        assert await asyncio.to_thread(mesh.end) == 0


def test_the_demo_holds(tmp_path: Path) -> None:
    """Every proof of the demo holds, and it leaves nothing behind."""
    done = cubemesh("demo", "--json", timeout=110, TMPDIR=str(tmp_path))
    said = json.loads(done.out)
    assert (done.status, said["ok"]) == (0, True), said
    assert set(said) == {"ok", "hops", "first_output_ms", "refusals", "rotation"}
    assert [hop["target"] for hop in said["hops"]] == [
        "router",
        "workloadmanager",
        "picod",
    ]
    assert {r["door"]: r["reason"] for r in said["refusals"]} == {
        "workloadmanager": "not_admitted",
        "picod": "not_admitted",
        "front": "not_admitted",
    }
    assert min(said["rotation"]["generations"].values()) >= 3
    assert said["rotation"]["stream_outlived"] >= 2
    assert list(tmp_path.iterdir()) == []


def _first(events: object, count: int) -> list[object]:
    return [next(events) for _ in range(count)]  # type: ignore[call-overload]


def _reads(sandbox: Sandbox, path: str) -> bytes | None:
    try:
        return sandbox.files.read(path)
    except UnavailableError:
        return None


def _loads(mesh: Up) -> int:
    """Return how many identities the Router has loaded."""
    return [r["event"] for r in mesh.records("router")].count("identity loaded")


def _is_listed(mesh: Up, name: str) -> bool:
    done = mesh.cli("sessions", "--json")
    return done.status == 0 and name in done.out


def _running_for(state: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if str(state) in words and "-m" in words and "cubemesh" not in words:
            found.append(process.pid)
    return found
