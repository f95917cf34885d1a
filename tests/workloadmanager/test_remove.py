from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from workloadmanager._remove import remove_groups, remove_tree

if TYPE_CHECKING:
    from pathlib import Path


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """Code that plants a link to a host folder must not make us empty that."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "link").symlink_to(precious)
    (root / "inner" / "link").symlink_to(precious, target_is_directory=True)
    os.mkfifo(root / "inner" / "fifo")
    (root / "inner" / "bad\xff\n").write_text("")
    remove_tree(root)
    assert not root.exists()
    assert (precious / "file").read_text() == "kept"


def test_unreadable_folders_go_too(tmp_path: Path) -> None:
    """Mode 000 is no refuge."""
    root = tmp_path / "root"
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "c" / "file").write_text("")
    for path in ("a/b/c/file", "a/b/c", "a/b", "a"):
        (root / path).chmod(0)
    remove_tree(root)
    assert not root.exists()


@pytest.mark.slow
def test_a_tree_deeper_than_any_path_goes_too(tmp_path: Path) -> None:
    """3,000 levels: beyond recursion and beyond PATH_MAX."""
    root = tmp_path / "root"
    root.mkdir()
    folder = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    remove_tree(root)
    assert not root.exists()


def test_nothing_to_remove_is_fine(tmp_path: Path) -> None:
    """Ending twice does no harm; a link in its place is not followed."""
    remove_tree(tmp_path / "none")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        remove_tree(tmp_path / "link")


def test_groups_of_a_killed_picod_go(tmp_path: Path) -> None:
    """Only empty groups of this very sandbox are removed, whatever the file says."""
    ours, full, other = (
        tmp_path / name / f"cubemesh-{sandbox}"
        for name, sandbox in (("memory", "sbx-a"), ("pids", "sbx-a"), ("x", "sbx-b"))
    )
    for group in (ours, full, other):
        group.mkdir(parents=True)
    (full / "cgroup.procs").touch()
    gone = tmp_path / "cubemesh-sbx-a"
    lines = "".join(f"{path}\n" for path in (gone, ours, other, full))
    (tmp_path / "groups").write_text(lines)
    remove_groups(tmp_path, "sbx-a")
    assert not ours.exists()
    assert full.exists()
    assert other.exists()
    remove_groups(tmp_path / "nowhere", "sbx-a")
