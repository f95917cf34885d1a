"""The WorkloadManager's part of the state folder: ours alone, one process at a time."""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from workloadmanager._errors import StateError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["StateFolder", "private_folder"]

_VERSION = "1"
_LONGEST_PATH = 450  # leaves room for the store: SQLite takes at most 511 bytes


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The folders below ``--state``; the lock is held until `close`."""

    root: Path
    lock: int

    @property
    def private(self) -> Path:
        """Our own folder: store, CA, version, lock."""
        return self.root / "workloadmanager"

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.private / "sessions.db"

    @property
    def authority(self) -> Path:
        """Where the sandboxes' CA lives."""
        return self.private / "ca"

    def bundle(self, trust_domain: str) -> Path:
        """Where the bundle of a trust domain is published."""
        return self.root / "bundles" / f"{trust_domain}.pem"

    @property
    def logs(self) -> Path:
        """Where each PicoD's log is."""
        return self.root / "logs"

    @classmethod
    def open(cls, root: Path) -> Self:
        """Make or check the folders at *root*, and lock them for this process.

        Raises:
            StateError: the folder is not ours alone, is of another version, is in
                use, or cannot be used at all.
        """
        root = root.absolute()
        if len(os.fsencode(root)) > _LONGEST_PATH:
            raise StateError(
                f"the state folder's path is longer than {_LONGEST_PATH} bytes",
                "choose a shorter --state",
            )
        try:
            private_folder(root)
            private_folder(root / "workloadmanager")
            for name in ("bundles", "logs"):
                private_folder(root / name)
            lock = _lock(root / "workloadmanager" / "lock")
            try:
                _check_version(root / "workloadmanager" / "version")
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise StateError(
                f"cannot use the state folder: {error}",
                "choose another --state, or mend this one",
            ) from error
        return cls(root, lock)

    def close(self) -> None:
        """Give the lock back."""
        os.close(self.lock)


def private_folder(path: Path) -> None:
    """Make the folder *path* with rights 0700, or see that it is ours alone.

    Raises:
        StateError: it is somebody else's, or others may enter it.
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(f"{path} is not a folder", "choose another one")
    if found.st_uid != os.geteuid():
        raise StateError(
            f"{path} belongs to user {found.st_uid}, not to us ({os.geteuid()})",
            "choose another folder, or start as its owner",
        )
    if found.st_mode & 0o077:
        raise StateError(
            f"others may enter {path} (rights {stat.S_IMODE(found.st_mode):04o})",
            f"chmod 700 {path}",
        )


def _lock(path: Path) -> int:
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StateError(
            f"another WorkloadManager is using the state folder {path.parents[1]}",
            "stop it first, or choose another --state",
        ) from None
    except OSError:
        os.close(lock)
        raise
    return lock


def _check_version(path: Path) -> None:
    try:
        found = path.read_text(errors="replace").strip()
    except FileNotFoundError:
        fresh = path.with_name("version.new")
        fresh.write_text(f"{_VERSION}\n")
        fresh.replace(path)
        return
    if found != _VERSION:
        raise StateError(
            f"the state folder is of version {found[:20]!r}, this is {_VERSION!r}",
            "start the CubeMesh that made it, or choose another --state",
        )
