"""Removing a folder that hostile code filled: however deep, wide or unreadable."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["remove_tree"]


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
