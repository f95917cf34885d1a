"""The state folder of `cubemesh up`, and its folder of sockets.

The state folder is ours alone (0700), of one version, and used by one `up` at a time.
Sockets never live there: their paths must be short. ``lock`` tells where they are, so
that the next `up` finds the sandboxes that a killed one left running.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cubemesh._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = "1"
_LONGEST = 450  # bytes; the store lies below, and SQLite takes paths of at most 511
_LONGEST_RUNTIME = 60  # bytes; gRPC takes socket paths of at most 107
_PRIVATE = 0o077


@dataclass(frozen=True, slots=True)
class State:
    """A state folder that is ours until the block of `claim` is left."""

    root: Path
    runtime: Path

    def identity(self, name: str) -> tuple[Path, Path]:
        """Return where certificate and key of *name* are."""
        folder = self.root / "identities" / name
        return folder / "svid.pem", folder / "key.pem"

    def bundle(self, trust_domain: str) -> Path:
        """Return where the bundle of *trust_domain* is."""
        return self.root / "bundles" / f"{trust_domain}.pem"

    def log(self, name: str) -> Path:
        """Return where *name* logs."""
        return self.root / "logs" / f"{name}.log"


@contextmanager
def claim(root: Path, environ: Mapping[str, str]) -> Iterator[State]:
    """Make or check the folder at *root* and hold it; the sockets' folder goes at exit.

    Raises:
        ConfigurationError: it is in use, of another version, open to others, or cannot
            be used at all.

    """
    root = root.expanduser().absolute()
    if len(os.fsencode(root)) > _LONGEST:
        message = f"the path of the state folder is longer than {_LONGEST} bytes"
        raise ConfigurationError(message, hint="choose a shorter --state")
    try:
        _make_private(root)
        lock = _locked(root / "lock", root)
    except OSError as error:
        message = f"cannot use the state folder {root}: {error.strerror}"
        raise ConfigurationError(message, hint="choose another --state") from error
    with os.fdopen(lock, "r+", encoding="utf-8") as file:
        _check_version(root)
        for name in ("logs", "router"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        runtime = _left_behind(file.read()) or _new_runtime(environ)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "runtime": str(runtime)}, file)
        file.flush()
        try:
            yield State(root, runtime)
        finally:
            shutil.rmtree(runtime, ignore_errors=True)
            _remove_if_empty(runtime.parent)


def is_in_use(root: Path) -> bool:
    """Say whether an `up` runs on the state folder *root*."""
    try:
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        message = f"{path} is not a folder"
        raise ConfigurationError(message, hint="choose another --state")
    if found.st_uid != os.geteuid():
        message = f"the state folder {path} belongs to another user"
        raise ConfigurationError(message, hint="choose another --state")
    if found.st_mode & _PRIVATE:
        message = f"others may enter the state folder {path}"
        raise ConfigurationError(message, hint=f"chmod 700 {path}")


def _locked(path: Path, root: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        message = f"another `cubemesh up` uses the state folder {root}"
        hint = "stop it, or choose another --state and --profile"
        raise ConfigurationError(message, hint=hint) from None
    return descriptor


def _check_version(root: Path) -> None:
    path = root / "version"
    try:
        found = path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        strangers = sorted({entry.name for entry in root.iterdir()} - {"lock"})
        if strangers:
            message = f"{root} is not a state folder: it holds {strangers[0]}"
            hint = "choose an empty or new folder as --state"
            raise ConfigurationError(message, hint=hint) from None
        draft = root / "version.new"
        draft.write_text(f"{VERSION}\n", encoding="utf-8")
        draft.replace(path)
        return
    if found != VERSION:
        message = f"the state folder {root} is of version {found[:20]!r}"
        hint = f"this is version {VERSION!r}; choose another --state"
        raise ConfigurationError(message, hint=hint)


def _left_behind(lock: str) -> Path | None:
    """Return the folder of sockets of an `up` that was killed, if it is still ours."""
    try:
        path = Path(json.loads(lock)["runtime"])
        found = path.lstat()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & _PRIVATE
    return path if private and found.st_uid == os.geteuid() else None


def _new_runtime(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        path = Path(base) / "cubemesh" / secrets.token_hex(4)
        if len(os.fsencode(path)) <= _LONGEST_RUNTIME:
            path.mkdir(mode=0o700, parents=True)
            return path
    for folder in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp is private
        if len(os.fsencode(folder)) + 18 <= _LONGEST_RUNTIME:
            return Path(tempfile.mkdtemp(prefix="cubemesh-", dir=folder))
    message = "there is no folder with a path short enough for sockets"
    raise ConfigurationError(message, hint="set XDG_RUNTIME_DIR or TMPDIR")


def _remove_if_empty(folder: Path) -> None:
    if folder.name == "cubemesh":
        try:
            folder.rmdir()
        except OSError:
            return  # another mesh is still there
