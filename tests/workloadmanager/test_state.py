from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from workloadmanager._errors import StateError
from workloadmanager._state import StateFolder
from workloadmanager._store import Store

if TYPE_CHECKING:
    from pathlib import Path


def test_a_fresh_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    """Nobody else can look into what we keep."""
    state = StateFolder.open(tmp_path / "a" / "state")
    for folder in (state.root, state.private, state.logs, state.bundle("x").parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    state.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Two WorkloadManagers on one store would end each other's sandboxes."""
    state = StateFolder.open(tmp_path / "s")
    with pytest.raises(StateError, match="another WorkloadManager") as caught:
        StateFolder.open(tmp_path / "s")
    assert "--state" in caught.value.hint
    state.close()
    StateFolder.open(tmp_path / "s").close()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    """The lock is the kernel's: nothing has to be cleaned by hand."""
    code = (
        "import sys, os, signal, pathlib; from workloadmanager._state import "
        "StateFolder; StateFolder.open(pathlib.Path(sys.argv[1])); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "s"], check=False)
    StateFolder.open(tmp_path / "s").close()


@pytest.mark.parametrize("name", ["", "workloadmanager"])
def test_a_folder_open_to_others_is_refused(tmp_path: Path, name: str) -> None:
    """Wrong rights are told with the command that mends them."""
    StateFolder.open(tmp_path / "s").close()
    (tmp_path / "s" / name).chmod(0o750)
    with pytest.raises(StateError, match="others may enter") as caught:
        StateFolder.open(tmp_path / "s")
    assert caught.value.hint.startswith("chmod 700")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    """Whoever owns the folder could replace what is in it."""
    (tmp_path / "s").mkdir(mode=0o700)
    os.chown(tmp_path / "s", 12345, 12345)
    with pytest.raises(StateError, match="belongs to user 12345"):
        StateFolder.open(tmp_path / "s")


def test_another_version_is_refused(tmp_path: Path) -> None:
    """State of another CubeMesh is not touched."""
    StateFolder.open(tmp_path / "s").close()
    (tmp_path / "s" / "workloadmanager" / "version").write_text("7\n")
    for _ in range(2):  # the refusal has let go of the lock
        with pytest.raises(StateError, match="of version '7'"):
            StateFolder.open(tmp_path / "s")


def test_a_link_or_file_in_its_place_is_refused(tmp_path: Path) -> None:
    """A symlink could lead our secrets anywhere."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StateError, match="is not a folder"):
        StateFolder.open(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot use"):
        StateFolder.open(tmp_path / "file")


async def test_a_long_path_works_and_too_long_a_one_is_refused(tmp_path: Path) -> None:
    """State holds no sockets, so its path may be as long as SQLite takes."""
    deep = tmp_path / "/".join(["d" * 100] * 3)
    state = StateFolder.open(deep)
    await (await Store.open(state.store)).close()
    state.close()
    with pytest.raises(StateError, match="longer than"):
        StateFolder.open(deep / "/".join(["d" * 100] * 3))
