"""Removing a folder that hostile code filled: however deep, wide or unreadable."""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["remove_groups", "remove_tree"]

_log = logging.getLogger(__name__)
_LOOKS, _PAUSE = 200, 0.005


def remove_groups(folder: Path, sandbox_id: str) -> None:
    """Remove the control groups that a PicoD in *folder* had no time to. Blocks."""
    try:
        lines = (folder / "groups").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in lines:
        if line.endswith(f"/cubemesh-{sandbox_id}"):
            _remove_group(line)


def _remove_group(path: str) -> None:
    """Remove an empty group; the kernel still counts the dead for a moment."""
    for _ in range(_LOOKS):
        try:
            os.rmdir(path)  # noqa: PTH106  # nothing in it can be removed
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(_PAUSE)
        else:
            return
    _log.warning("group not removed", extra={"path": path})


def remove_tree(root: Path) -> None:
    """Remove the folder *root* with all that is in it; none is fine. Blocks.

    Folders inside folders are moved up before they are emptied, so that neither
    recursion nor long paths limit the depth. Symlinks are never followed.
    """
    try:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _Emptying(top).run()
    finally:
        os.close(top)
    root.rmdir()


class _Emptying:
    def __init__(self, top: int) -> None:
        self._top = top
        self._prefix = secrets.token_hex(16)  # no name that is there already
        self._moved = 0

    def run(self) -> None:
        folders = self._empty(".")
        while folders:
            name = folders.pop()
            folders += self._empty(name)
            os.rmdir(name, dir_fd=self._top)

    def _empty(self, name: str) -> list[str]:
        """Remove the files of one folder; return its folders, moved to the top."""
        moved = []
        with suppress(PermissionError):  # root may anyhow
            os.chmod(name, 0o700, dir_fd=self._top)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(name, flags, dir_fd=self._top)
        try:
            with os.scandir(folder) as entries:
                for entry in list(entries):
                    if entry.is_dir(follow_symlinks=False):
                        moved.append(self._move_up(entry.name, folder))
                    else:
                        os.unlink(entry.name, dir_fd=folder)
        finally:
            os.close(folder)
        return moved

    def _move_up(self, name: str, folder: int) -> str:
        with suppress(PermissionError):  # moving a folder writes its ".."
            os.chmod(name, 0o700, dir_fd=folder)
        self._moved += 1
        fresh = f"{self._prefix}{self._moved}"
        os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=self._top)
        return fresh
