"""`cubemesh up --spire`: the whole mesh on real SPIRE, as its users start it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from cubemesh import Sandbox
from tests.spire.spire import BINARIES, need
from tests.system.mesh import Up, cubemesh, eventually, up

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.spire, pytest.mark.slow, pytest.mark.timeout(300)]

SPIRE = {"spire-server", "spire-agent", "sandbox-spire-server", "sandbox-spire-agent"}
SOMEBODY = 20_014
RUNS, ROTATIONS = 5, 2


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    need("spire-server", "spire-agent")
    folder = tmp_path_factory.mktemp("spire")
    with up(folder, "--spire", "--svid-ttl", "20s") as running:
        yield running


def asked(mesh: Up, realm: str, *command: str) -> Any:
    """Ask the server of *realm* as its administrator."""
    at = ("-socketPath", f"{mesh.runtime}/{realm}/server/server.sock")
    argv = [str(BINARIES / "spire-server"), *command, "-output", "json", *at]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=30)
    return json.loads(done.stdout)


def entered(mesh: Up, realm: str) -> set[str]:
    """Return the paths of all identities that *realm* may give."""
    entries = asked(mesh, realm, "entry", "show")["entries"]
    return {each["spiffe_id"]["path"] for each in entries}


def generations(mesh: Up, log: str) -> int:
    return sum(each["event"] == "identity loaded" for each in mesh.records(log))


def test_identities_rotate_under_running_code(mesh: Up) -> None:
    """Certificates of 20 seconds change everywhere; no call fails, no stream ends."""
    with Sandbox.create(profile=mesh.profile) as sandbox:
        own = mesh.sandbox_of(sandbox.session_id)
        logs = (own, "router", "workloadmanager", "authority")
        started = {log: generations(mesh, log) for log in logs}
        runs = 0

        def rotated() -> bool:
            nonlocal runs
            done = mesh.cli("run", "-c", "print(1)")
            assert (done.status, done.out) == (0, "1\n"), done.err
            assert sandbox.commands.run("echo $((6*7))").stdout == "42\n"
            runs += 1
            changed = (generations(mesh, log) - started[log] for log in logs)
            return runs >= RUNS and min(changed) >= ROTATIONS

        eventually(rotated, within=200)
        path = f"/ns/agentcube-system/sandbox/{own}"
        assert path in entered(mesh, "sandboxes")
    eventually(lambda: path not in entered(mesh, "sandboxes"))
    assert not [r for r in mesh.records("router") if r["event"] == "dial failed"]


def test_each_service_has_its_own_identity(mesh: Up) -> None:
    """Told apart by their interpreters; sandboxes and services share no server."""
    account = "/ns/agentcube-system/sa"
    services = entered(mesh, "services")
    assert {f"{account}/agentcube-router", f"{account}/workloadmanager"} <= services
    assert not [each for each in services if "/sandbox/" in each]
    sandboxes = {e for e in entered(mesh, "sandboxes") if "/sandbox/" not in e}
    assert sandboxes == {"/host", f"{account}/workloadmanager"}
    for name in ("router", "workloadmanager"):
        running = Path(f"/proc/{mesh.said['pids'][name]}/exe").readlink()
        assert running == mesh.state / "interpreters" / name / "bin" / "python3"
    with Sandbox.create(profile=mesh.profile):
        words = [each.cmdline() for each in mesh.processes()]
        picods = {each[0] for each in words if "picod.forkserver" in each}
        assert picods == {sys.executable}, "or PicoD were the WorkloadManager"


def test_the_workloadmanager_is_told_of_its_own_spire_only(mesh: Up) -> None:
    """No socket of the services' server is in its command line, nor an admin's."""
    words = " ".join(mesh.service("workloadmanager").cmdline())
    assert f"{mesh.runtime}/services/agent/agent.sock" in words
    assert "/services/server" not in words
    assert not (mesh.runtime / "services" / "admin" / "admin.sock").exists()


def test_no_key_of_a_sandbox_is_on_disk(mesh: Up) -> None:
    """SPIRE and PicoD keep them in memory; only the user's lies in a file."""
    with Sandbox.create(profile=mesh.profile) as sandbox:
        sandbox.commands.run("true")
        keys = [
            each
            for place in (mesh.state, mesh.runtime)
            for each in place.rglob("*")
            if each.is_file() and b"PRIVATE KEY" in each.read_bytes()
        ]
    assert keys == [mesh.state / "identities" / "user" / "key.pem"]


def test_its_logs_are_shown(mesh: Up) -> None:
    """`cubemesh logs` reads what SPIRE writes as well."""
    done = mesh.cli("logs", "spire-agent", "-n", "500")
    assert "info     spire-agent      Starting agent" in done.out
    records = mesh.cli("logs", "sandbox-spire-server", "--json").out.splitlines()
    assert all(json.loads(line)["msg"] for line in records)


def test_a_frozen_agent_is_got_over(mesh: Up) -> None:
    """Calls go on to the end of the identities, then are refused, then go on again."""
    agent = mesh.said["pids"]["spire-agent"]
    before = len(mesh.records("router"))

    def told() -> set[str]:
        records = mesh.records("router")[before:]
        return {each.get("reason", each["event"]) for each in records}

    os.kill(agent, signal.SIGSTOP)
    try:
        assert _ran(mesh)
        eventually(lambda: {"agent_silent", "identity expired"} <= told(), within=60)
        assert not _ran(mesh)
    finally:
        os.kill(agent, signal.SIGCONT)
    eventually(partial(_ran, mesh), within=30)


def test_parts_that_are_killed_come_back(mesh: Up) -> None:
    """Servers and agents are watched as services are; sandboxes do not notice."""
    with Sandbox.create(profile=mesh.profile) as sandbox:
        own = mesh.sandbox_of(sandbox.session_id)
        for name in (*sorted(SPIRE), "workloadmanager"):
            old = mesh.said["pids"][name]
            os.kill(old, signal.SIGKILL)
            eventually(partial(_is_told, mesh, f"{name} ended with"))
            assert sandbox.commands.run("echo on").stdout == "on\n"
        eventually(partial(_ran, mesh), within=90)
        before = generations(mesh, own)
        eventually(lambda: generations(mesh, own) > before + 1, within=60)
        assert sandbox.commands.run("echo on").stdout == "on\n"


def _is_told(mesh: Up, words: str) -> bool:
    return words in mesh.errors.read_text()


def _ran(mesh: Up) -> bool:
    return mesh.cli("run", "-c", "print(1)").status == 0


def test_a_killed_mesh_leaves_nothing_and_comes_back(tmp_path: Path) -> None:
    """The next one has the same CA, the same agents, and lives in the same folder."""
    need("spire-server", "spire-agent")
    first = Up(tmp_path, "--spire")
    bundle = first.state / "bundles" / "cluster.local.pem"
    before = bundle.read_bytes()
    first.process.kill()
    first.process.wait()
    assert first.process.stdout is not None
    first.process.stdout.close()
    eventually(lambda: not first.processes())
    with up(tmp_path, "--spire") as second:
        assert bundle.read_bytes() == before
        for realm in ("services", "sandboxes"):
            assert len(asked(second, realm, "agent", "list")["agents"]) == 1
        assert second.cli("run", "-c", "print(1)").out == "1\n"
        assert not list(second.state.rglob("token"))


def test_an_agent_that_is_not_known_any_more_is_begun_anew(tmp_path: Path) -> None:
    """Its keys are from another server: it gets a new token, and nobody has to act."""
    need("spire-server", "spire-agent")
    with up(tmp_path, "--spire") as mesh:
        state = mesh.state
    for realm in ("services", "sandboxes"):
        shutil.rmtree(state / "spire" / realm / "server")
    with up(tmp_path, "--spire") as mesh:
        assert mesh.cli("run", "-c", "print(1)").out == "1\n"


def test_without_spire_it_says_what_to_do(tmp_path: Path) -> None:
    """No half of a mesh is started: status 78, and where to get it."""
    done = cubemesh(
        *("up", "--spire", "--state", str(tmp_path / "state")),
        *("--profile", str(tmp_path / "profile.json")),
        PATH=os.defpath,
        CUBEMESH_CACHE=str(tmp_path),
    )
    assert done.status == 78
    assert "error: there is no spire-server and no spire-agent on PATH" in done.err
    assert "hint: install SPIRE 1.15 or newer" in done.err
    assert not (tmp_path / "state").exists()


@contextmanager
def home() -> Iterator[Path]:
    """Make the home of a user without rights, with Python and SPIRE in it."""
    with tempfile.TemporaryDirectory(prefix="home-") as name:
        folder = Path(name)
        venv = folder / "venv"
        made = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
        made[0] = "/usr/bin/python3"
        subprocess.run(made, check=True, timeout=60)
        packages = next(venv.glob("lib/python3*/site-packages"))
        found = [each for each in sys.path if each.endswith("site-packages")]
        lines = [f"import site; site.addsitedir({each!r})\n" for each in found]
        (packages / "ours.pth").write_text("".join(lines))
        for program in ("spire-server", "spire-agent"):
            shutil.copy(BINARIES / program, venv / "bin")
        for each in (folder, *folder.rglob("*")):
            os.chown(each, SOMEBODY, SOMEBODY, follow_symlinks=False)
        yield folder


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="already without root")
def test_a_user_without_rights_can_do_all_of_it() -> None:
    """No group and no other user is needed to tell the services apart."""
    need("spire-server", "spire-agent")
    with home() as folder:

        def as_somebody(*argv: str, **more: Any) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [str(folder / "venv/bin/python"), "-I", "-m", "cubemesh", *argv],
                env={
                    "HOME": str(folder),
                    "PATH": f"{folder}/venv/bin:{os.defpath}",
                    "TMPDIR": str(folder),
                },
                cwd=folder,
                user=SOMEBODY,
                group=SOMEBODY,
                extra_groups=[],
                stdout=subprocess.PIPE,
                text=True,
                **more,
            )

        usable = as_somebody("version", stderr=subprocess.DEVNULL)
        usable.communicate(timeout=60)
        if usable.returncode:
            pytest.skip("this tree or its packages are closed to other users")
        running = as_somebody("up", "--spire", "--json", "--svid-ttl", "20s")
        try:
            assert running.stdout is not None
            assert json.loads(running.stdout.readline())["ready"]
            ran = as_somebody("run", "-c", "print(1)")
            assert ran.communicate(timeout=60)[0] == "1\n", words(folder)
            assert ran.returncode == 0
        finally:
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=60)
        assert running.returncode == 0
        assert not _of(SOMEBODY)


def words(folder: Path) -> str:
    """Return what the services of a mesh below *folder* logged."""
    logs = (each for each in folder.rglob("*.log") if "spire" not in each.name)
    return "\n".join(each.read_text() for each in logs)


def _of(user: int) -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if each.uids().real == user]
