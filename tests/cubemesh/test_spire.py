"""What `cubemesh up --spire` needs before anything runs: programs, interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cubemesh import ConfigurationError
from cubemesh._cli_logs import _parsed
from cubemesh._interpreter import own_interpreter
from cubemesh._options import span
from cubemesh._spire import Programs


def program(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    made = folder / name
    made.touch(mode=0o755)
    return made


def test_programs_are_found_on_path_first(tmp_path: Path) -> None:
    """An installed SPIRE wins over the one that was built for tests."""
    for name in ("spire-server", "spire-agent"):
        program(tmp_path / "bin", name)
    own = program(tmp_path / "path", "spire-server")
    environ = {"PATH": str(tmp_path / "path"), "CUBEMESH_CACHE": str(tmp_path)}
    found = Programs.find(environ)
    assert (found.server, found.agent) == (own, tmp_path / "bin" / "spire-agent")


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    """With what to do, before a folder or a process is made."""
    program(tmp_path / "bin", "spire-server")
    with pytest.raises(ConfigurationError, match="no spire-agent on PATH") as caught:
        Programs.find({"PATH": "/nowhere", "CUBEMESH_CACHE": str(tmp_path)})
    assert "make peers" in caught.value.hint


@pytest.mark.slow
def test_an_interpreter_of_its_own(tmp_path: Path) -> None:
    """Another file to the kernel, the same packages; and it can be made again."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    made = own_interpreter(tmp_path / "link")
    assert made == own_interpreter(tmp_path / "real")
    code = "import os, router, grpc; print(os.readlink('/proc/self/exe'))"
    argv = [str(made), "-I", "-c", f"{code}; print(router.__file__, grpc.__file__)"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    exe, packages = shown.splitlines()
    assert exe == str(made)
    ours = "import router, grpc; print(router.__file__, grpc.__file__)"
    argv = [sys.executable, "-I", "-c", ours]
    assert subprocess.check_output(argv, text=True).strip() == packages
    assert made.stat().st_mode & 0o077 == 0


def test_logs_of_spire_are_shown_as_ours() -> None:
    """Its words for event and time are others; who wrote it is the file's name."""
    line = {"level": "info", "msg": "Starting agent", "time": "2030", "version": "1"}
    assert _parsed(json.dumps(line), "spire-agent") == {
        "level": "info",
        "event": "Starting agent",
        "timestamp": "2030",
        "service": "spire-agent",
        "version": "1",
    }
    ours = {"level": "info", "event": "x", "timestamp": "2030", "service": "router"}
    assert _parsed(json.dumps(ours), "router") == ours
    assert _parsed("[1]", "router")["event"] == "[1]"


@pytest.mark.parametrize("text", ["", "1x", "-1s", "0s", "1s2", "h"])
def test_a_span_is_a_span(text: str) -> None:
    """A life that could not be kept is refused before it is written anywhere."""
    with pytest.raises(ValueError, match="span of time"):
        span(text)


def test_its_configuration_is_installed_with_it() -> None:
    """What is run and what an administrator reads are the same files."""
    shown = Path(__file__).parents[2] / "deploy" / "spire" / "local"
    names = {each.name for each in shown.glob("*.conf")}
    assert names == {"server.conf", "agent.conf", "sandboxes-agent.conf"}
    for name in names:
        installed = Path(__file__).parents[2] / "cubemesh" / "spire" / name
        assert (shown / name).resolve() == installed
