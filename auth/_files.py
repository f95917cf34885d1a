"""Key files: read whole, written whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from auth._errors import KeysError
from tlsloader.strict import parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["locked", "read_jwks", "write_jwks"]

_MAX_BYTES = 65_536
_MAX_KEYS = 64
_FOREIGN_RIGHTS = 0o077


def read_jwks(path: Path, *, private: bool) -> Sequence[Mapping[str, Any]]:
    """Return the keys of the JWKS file *path*, as JSON objects.

    Raises:
        KeysError: it is missing, malformed, or others may read a *private* one.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise KeysError(f"{path}: not a regular file")
    if private and mode & _FOREIGN_RIGHTS:
        raise KeysError(f"{path}: others may read it; chmod 600 it")
    try:
        keys = parse_object(raw, _MAX_BYTES).get("keys")
    except ValueError as error:
        raise KeysError(f"{path}: {error}") from None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise KeysError(f"{path}: not a JWKS")
    if len(keys) > _MAX_KEYS:
        raise KeysError(f"{path}: more than {_MAX_KEYS} keys")
    return keys


def write_jwks(path: Path, keys: Sequence[Mapping[str, Any]], *, mode: int) -> None:
    """Replace *path* by a JWKS of *keys* in one step.

    Raises:
        KeysError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    raw = json.dumps({"keys": list(keys)}, indent=1).encode() + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        draft.unlink(missing_ok=True)
        with open(os.open(draft, flags, mode), "wb") as file:  # noqa: PTH123
            os.fchmod(file.fileno(), mode)
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other Routers from changing *path* meanwhile; blocks.

    Raises:
        KeysError: the folder cannot be written to.
    """
    lock = path.with_name(f".{path.name}.lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(lock, flags, 0o600)
    except OSError as error:
        raise KeysError(f"{lock}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
