"""What a sandbox has from the start, through real processes, and where it is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cubemesh import InvalidPathError, InvalidRequestError, Sandbox
from tests.system.mesh import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.mesh import Up

pytestmark = pytest.mark.slow


def nowhere(mesh: Up, value: str) -> bool:
    """Say whether no file of the mesh, be it a log or the store, holds *value*."""
    places = (mesh.state, mesh.runtime, mesh.errors)
    files = [each for place in places for each in (place, *place.rglob("*"))]
    return not [
        each for each in files if each.is_file() and value.encode() in each.read_bytes()
    ]


def test_code_finds_files_and_secrets(mesh: Up) -> None:
    """Commands and code alike; the secret is nowhere else, also when it has ended."""
    value = os.urandom(16).hex()
    made = Sandbox.create(
        profile=mesh.profile,
        files={"data/in.csv": b"1,2\n", "main.py": "print(6 * 7)"},
        secrets={"API_KEY": value},
    )
    with made as sandbox:
        told = sandbox.commands.run("cat data/in.csv; python3 main.py")
        assert told.stdout == "1,2\n42\n"
        code = "import os; open(os.environ['CUBEMESH_SECRETS'] + '/API_KEY').read()"
        assert sandbox.run_code(code).text == repr(value)
        for path in ("/run/secrets/API_KEY", "/dev/shm/secrets/API_KEY"):
            with pytest.raises(InvalidPathError):
                sandbox.files.read(path)
        assert "API_KEY" not in sandbox.commands.run(["env"]).stdout
        assert nowhere(mesh, value)
    assert nowhere(mesh, value)


def test_as_much_as_fits(mesh: Up) -> None:
    """The largest of all that a session may bring passes every door together."""
    made = Sandbox.create(
        profile=mesh.profile,
        environment={"BIG": "e" * 100_000, **{f"E{n}": "e" * 3500 for n in range(250)}},
        files={f"f/{n}": bytes(8000) for n in range(256)},
        secrets={f"s{n}": bytes(4000) for n in range(64)},
    )
    with made as sandbox:
        counted = sandbox.commands.run("ls f | wc -l; ls $CUBEMESH_SECRETS/ | wc -l")
        assert counted.stdout == "256\n64\n"


def test_what_cannot_be_is_refused(mesh: Up) -> None:
    """With a reason to look up, no secret in the text, and no session left."""
    value = os.urandom(16).hex()
    refused = {
        "PATH_OUTSIDE_WORKSPACE": {"../etc/passwd": b""},
        "INVALID_PATH": {"a/b": b"", "a": b""},
        "BINDING_TOO_LARGE": {str(n): b"" for n in range(257)},
        "BINDING_REFUSED": {"x/../y": b"", "x": b""},  # the way leads through a folder
    }
    for reason, files in refused.items():
        with pytest.raises(InvalidRequestError) as caught:
            Sandbox.create(profile=mesh.profile, files=files, secrets={"KEY": value})
        assert caught.value.reason == reason
        assert value not in str(caught.value)
    with pytest.raises(InvalidRequestError, match="secrets: a name"):
        Sandbox.create(profile=mesh.profile, secrets={"../KEY": value})
    assert Sandbox.list(profile=mesh.profile) == ()
    assert eventually(lambda: nowhere(mesh, value))


def test_from_the_command_line(mesh: Up, tmp_path: Path) -> None:
    """Files by their names or elsewhere; a secret's value is on no command line."""
    (tmp_path / "in.csv").write_bytes(b"1,2\n")
    (tmp_path / "key").write_bytes(b"s3cret")
    code = (
        "import os; print(open('in.csv').read(), open('d/in.csv').read(),"
        " open(os.environ['CUBEMESH_SECRETS'] + '/KEY').read())"
    )
    done = mesh.cli(
        "run",
        *("--file", f"{tmp_path}/in.csv", "--file", f"{tmp_path}/in.csv:d/"),
        *("--secret", f"KEY={tmp_path}/key", "-c", code),
    )
    assert (done.status, done.out) == (0, "1,2\n 1,2\n s3cret\n")
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    done = mesh.cli("run", "--file", f"{tmp_path}/big", "-c", "1")
    assert done.status == 125
    assert done.err.startswith("error: files: at most 2048 KiB can be given\nhint: ")
