from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubemesh import ConfigurationError, _cli_bench
from cubemesh._options import Assignment, Copy, Duration
from cubemesh._plan import environment_of

if TYPE_CHECKING:
    from tests.cubemesh.conftest import Mesh

pytestmark = pytest.mark.slow


def cubemesh(
    *argv: str, stdin: bytes = b"", **environ: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-I", "-m", "cubemesh", *argv],
        input=stdin,
        capture_output=True,
        env={"PATH": os.defpath, "HOME": "/nonexistent", **environ},
        timeout=30,
        check=False,
    )


def test_help_names_every_command() -> None:
    """Without arguments the list of commands comes, each with a line."""
    said = cubemesh().stdout.decode()
    for name in ("up", "run", "exec", "cp", "rm", "sessions", "kill", "logs", "doctor"):
        assert f"  {name} " in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("nope",), "error: no such command 'nope'\nhint: cubemesh --help\n"),
        (("run",), "error: nothing to run: "),
        (("run", "-"), "error: no profile at "),
        (("run", "-i", "-"), "error: standard input cannot be both"),
        (("run", "/no/such/file"), "error: /no/such/file: no such file or directory"),
        (("exec", "ses-x"), "error: missing argument 'COMMAND...'"),
        (("cp", "a", "b"), "error: one of SOURCE and TARGET must be SESSION:PATH"),
        (("cp", "ses-a:x", "ses-b:x"), "error: one of SOURCE and TARGET must be"),
        (("rm", "file"), "error: each must be SESSION:PATH"),
        (("kill",), "error: name sessions, or say --all"),
        (("run", "--timeout", "soon", "-c", "1"), "error: invalid value for"),
        (("run", "-e", "novalue", "-c", "1"), "error: invalid value for"),
        (("run", "--secret", "x", "-c", "1"), "error: invalid value for '--secret'"),
        (("run", "--file", "/no/x", "-c", "1"), "error: /no/x: no such file"),
        (("run", "--secret", "A=/no/x", "-c", "1"), "error: /no/x: no such file"),
    ],
)
def test_faults_are_told_one_way(argv: tuple[str, ...], said: str) -> None:
    """Always `error:` in lower case, never a traceback, never the command's status."""
    done = cubemesh(*argv)
    assert done.stderr.decode().startswith(said)
    assert done.returncode in {78, 125}
    assert b"Traceback" not in done.stderr


def test_a_missing_profile_is_a_fault_of_the_setup() -> None:
    """Status 78, and the hint names the command that mends it."""
    done = cubemesh("sessions")
    assert done.returncode == 78
    assert b"hint: start a mesh with `cubemesh up`" in done.stderr


def test_version_as_json() -> None:
    """Programs get what people get."""
    said = json.loads(cubemesh("version", "--json").stdout)
    assert said["cubemesh"]
    assert said["grpcio"]


def test_a_reader_that_goes_away(blocking_mesh: Mesh, tmp_path: Path) -> None:
    """`cubemesh … | head` ends with SIGPIPE's status and no words."""
    blocking_mesh.profile.write(tmp_path / "profile.json")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-I", "-m", "cubemesh", "run", "-c", "x"],
        stdout=write,
        stderr=subprocess.PIPE,
        env={"CUBEMESH_PROFILE": str(tmp_path / "profile.json")},
        timeout=30,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
    assert blocking_mesh.router.sessions == {}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("5s", 5), ("250ms", 0.25), ("1.5m", 90), ("1h", 3600), ("1d", 86400)],
)
def test_spans_of_time(text: str, seconds: float) -> None:
    """Units may be left out; then they are seconds."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "1x", "1 s", "0ms"])
def test_no_spans_of_time(text: str) -> None:
    """Nothing else is guessed at."""
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_assignments() -> None:
    """The first sign parts name and value."""
    assert Assignment().convert("A=b=c", None, None) == ("A", "b=c")
    for text in ("A", "=b"):
        with pytest.raises(click.BadParameter):
            Assignment().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "local", "path"),
    [
        ("data/in.csv", "data/in.csv", "in.csv"),
        ("data/in.csv:sub/x", "data/in.csv", "sub/x"),
        ("data/in.csv:sub/", "data/in.csv", "sub/in.csv"),
        ("a:b:c", "a:b", "c"),
        ("data/in.csv:", "data/in.csv", "in.csv"),
        ("in.csv:/tmp/x", "in.csv", "/tmp/x"),
    ],
)
def test_copies(text: str, local: str, path: str) -> None:
    """The last colon parts the local file and its place; a PATH/ keeps its name."""
    assert Copy().convert(text, None, None) == (Path(local), path)


@pytest.mark.parametrize("text", ["", ":", ":x", "/:x/"])
def test_no_copies(text: str) -> None:
    """A copy needs a file of ours, and a name."""
    with pytest.raises(click.BadParameter):
        Copy().convert(text, None, None)


@given(st.text(max_size=8, alphabet=":/.ab"), st.text(max_size=4, alphabet="/.ab"))
def test_any_copy_has_both_ends(local: str, path: str) -> None:
    """Whatever is named, a place in the sandbox that is no directory comes of it."""
    with suppress(click.BadParameter):
        file, place = Copy().convert(f"{local}:{path}", None, None)
        assert (file, file.name != "") == (Path(local), True)
        assert place in {path, path + file.name}
        assert place
        assert not place.endswith("/")


def test_services_see_little_of_our_environment() -> None:
    """Secrets of the caller's shell do not reach the mesh; its own settings do."""
    ours = {
        "PATH": "/bin",
        "TMPDIR": "/of/the/user",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PYTHONPATH": "/evil",
        "http_proxy": "http://evil",
        "CUBEMESH_PROFILE": "x",
        "CUBEMESH_ROUTER_LOG_LEVEL": "debug",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    seen = {
        "PATH": "/bin",
        "CUBEMESH_ROUTER_LOG_LEVEL": "debug",
        "GRPC_VERBOSITY": "ERROR",
        "TMPDIR": "/run/mesh",
    }
    assert environment_of(ours, Path("/run/mesh")) == seen
    traced = environment_of(ours, Path("/run/mesh"), traces=True)
    assert traced == {**seen, "OTEL_TRACES_SAMPLER": "always_off"}


def test_the_benchmark_is_a_program_of_its_own(tmp_path: Path) -> None:
    """`bench` passes on all it is told, and its status; results are where one says."""
    out = str(tmp_path)
    flags = ("--quick", "--no-pictures", "--out", out)
    done = cubemesh("bench", *flags, "--only", "traces/off")
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.iterdir()
    assert "traces/off" in json.loads(written.read_text())["cases"]
    assert cubemesh("bench", "--only", "nothing").returncode == 2


def test_a_missing_benchmark_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has only the SDK reads what to install."""
    monkeypatch.setattr(_cli_bench, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="not installed") as caught:
        _cli_bench.bench_command.main([], standalone_mode=False)
    assert caught.value.hint == "pip install cubemesh-bench"
