"""Write what others watch: whole or not at all, and unreadable where it must be."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["private_folder", "publish_bundle", "replace", "write_identity"]

_PRIVATE = 0o600
_PUBLIC = 0o644


class _Identity(Protocol):
    @property
    def key(self) -> bytes: ...

    @property
    def chain(self) -> bytes: ...


def private_folder(path: Path) -> Path:
    """Make *path*, and what is missing above it, for our own user only."""
    if not path.parent.exists():
        private_folder(path.parent)  # `mkdir(parents=True)` would make these public
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def replace(path: Path, data: bytes, *, mode: int = _PRIVATE) -> None:
    """Put *data* at *path*, durably; a reader sees the old file or the new one."""
    os.replace(_beside(path, data, mode), path)  # noqa: PTH105 -- its twin of `_beside`
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_identity(folder: Path, issued: _Identity) -> None:
    """Put *issued* (PEM) into *folder* as ``svid.pem`` and ``key.pem`` (mode 0600).

    Both are written in full before either appears, so the moment in which a
    reader finds a key and a chain of two issues is as short as two renames; a
    loader that checks its files as one snapshot keeps the old pair until then.
    """
    private_folder(folder)
    key = _beside(folder / "key.pem", issued.key, _PRIVATE)
    chain = _beside(folder / "svid.pem", issued.chain, _PUBLIC)
    key.replace(folder / "key.pem")
    chain.replace(folder / "svid.pem")


def publish_bundle(path: Path, pem: bytes) -> None:
    """Put the roots *pem* at *path* for everyone who verifies by them."""
    private_folder(path.parent)
    replace(path, pem, mode=_PUBLIC)


def _beside(path: Path, data: bytes, mode: int) -> Path:
    """Write *data* to a new file beside *path* and return it."""
    new = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):  # left over by a writer that was killed
        new.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return new
