from __future__ import annotations

import os
from pathlib import Path

import pytest

from cubemesh import ConfigurationError
from cubemesh._state import claim, is_in_use


@pytest.fixture
def environ() -> dict[str, str]:
    return {}


def test_leaves_only_the_state_folder(tmp_path: Path, environ: dict[str, str]) -> None:
    """The folder of sockets is private, short, elsewhere, and gone at the end."""
    with claim(tmp_path / "state", environ) as state:
        assert state.root.stat().st_mode & 0o777 == 0o700
        assert state.runtime.stat().st_mode & 0o777 == 0o700
        assert state.root not in state.runtime.parents
        assert len(os.fsencode(state.runtime)) <= 60
        assert is_in_use(state.root)
    assert not state.runtime.exists()
    assert not is_in_use(state.root)


def test_sockets_live_in_the_users_runtime_folder(tmp_path: Path) -> None:
    """Where there is an XDG_RUNTIME_DIR it is used, and left as it was."""
    run = Path(f"/tmp/cubemesh-test-{os.getpid()}")
    run.mkdir(mode=0o700)
    try:
        with claim(tmp_path / "state", {"XDG_RUNTIME_DIR": str(run)}) as state:
            assert state.runtime.parent == run / "cubemesh"
            assert len(state.runtime.name) == 8
        assert list(run.iterdir()) == []
    finally:
        run.rmdir()


def test_a_second_one_is_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    """Two meshes on one state folder would destroy each other's keys."""
    with (
        claim(tmp_path, environ),
        pytest.raises(ConfigurationError, match="another `cubemesh up`"),
        claim(tmp_path, environ),
    ):
        pass


def test_a_killed_ones_sockets_are_found_again(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """The next `up` uses the folder in which sandboxes still listen."""
    (left := tmp_path / "left").mkdir(mode=0o700)
    (state := tmp_path / "state").mkdir(mode=0o700)
    (state / "lock").write_text(f'{{"pid": 1, "runtime": "{left}"}}')
    with claim(state, environ) as claimed:
        assert claimed.runtime == left


@pytest.mark.parametrize("text", ["", "[]", '{"runtime": 3}', '{"runtime": "/"}', "x"])
def test_a_lock_of_garbage_is_only_a_lock(
    tmp_path: Path, environ: dict[str, str], text: str
) -> None:
    """Whatever the file says, no folder that is not ours is used or removed."""
    tmp_path.chmod(0o700)
    (tmp_path / "lock").write_text(text)
    with claim(tmp_path, environ) as state:
        assert state.runtime != Path("/")


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_a_folder_open_to_others_is_refused(
    tmp_path: Path, environ: dict[str, str], mode: int
) -> None:
    """Keys do not go where others can look; the remedy is named."""
    (folder := tmp_path / "open").mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigurationError) as caught, claim(folder, environ):
        pass
    assert "chmod 700" in caught.value.hint


def test_another_version_is_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    """A folder that a newer version wrote is not touched."""
    tmp_path.chmod(0o700)
    (tmp_path / "version").write_text("2\n")
    with (
        pytest.raises(ConfigurationError, match="version '2'"),
        claim(tmp_path, environ),
    ):
        pass


def test_somebody_elses_folder_is_not_filled(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """A home folder given by mistake does not become a state folder."""
    tmp_path.chmod(0o700)
    (tmp_path / "thesis.tex").touch()
    with (
        pytest.raises(ConfigurationError, match=r"holds thesis\.tex"),
        claim(tmp_path, environ),
    ):
        pass


def test_a_file_in_its_place(tmp_path: Path, environ: dict[str, str]) -> None:
    """What is no folder gives an error of ours."""
    (path := tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match="state folder"),
        claim(path, environ),
    ):
        pass


def test_long_paths(tmp_path: Path, environ: dict[str, str]) -> None:
    """A very long path works; one beyond what the system takes is told."""
    long = tmp_path.joinpath(*["x" * 60] * 5)
    with claim(long, environ) as state:
        assert len(os.fsencode(state.runtime)) <= 60
    endless = tmp_path.joinpath(*["x" * 200] * 3)
    with (
        pytest.raises(ConfigurationError, match="longer than"),
        claim(endless, environ),
    ):
        pass
