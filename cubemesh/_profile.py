"""The client profile: where the mesh is, and which files prove who we are.

A profile holds paths and addresses, never keys.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cubemesh._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENVIRON = os.environ  # noqa: TID251 - a library has no __main__ that hands it out
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = 1
_LIMIT = 64 * 1024
_START_HINT = "start a mesh with `cubemesh up`, or name a profile by CUBEMESH_PROFILE"


@dataclass(frozen=True, slots=True)
class Profile:
    """How to reach one mesh.

    ``address`` is the Router's, ``server_name`` the name its certificate must carry;
    the three files hold the bundle that certificate must chain to, our own
    certificate, and its key (PEM). ``state`` is the folder of the mesh when it runs on
    this machine, ``instance`` tells one run of it from the next; both may be empty.
    """

    address: str
    ca_file: str
    cert_file: str
    key_file: str
    server_name: str = "agentcube-router"
    state: str = ""
    instance: str = ""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the profile at *path*.

        Raises:
            ConfigurationError: there is none, others could have written it, or it is
                not a profile.

        """
        try:
            return cls(**_checked(_read_private(path), path))
        except FileNotFoundError:
            message = f"no profile at {path}"
            raise ConfigurationError(message, hint=_START_HINT) from None
        except OSError as error:
            message = f"cannot read the profile {path}: {error.strerror}"
            raise ConfigurationError(message) from error

    def write(self, path: Path) -> None:
        """Put the profile at *path*, whole or not at all, readable by us alone."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        text = json.dumps({"version": _VERSION, **asdict(self)}, indent=2) + "\n"
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def remove(self, path: Path) -> None:
        """Remove the profile at *path* if it is still this one."""
        try:
            if Profile.load(path) == self:
                path.unlink()
        except ConfigurationError:
            return  # somebody else's by now, or gone


def locate(name: str | None = None, environ: Mapping[str, str] = _ENVIRON) -> Path:
    """Return where the profile *name* stands: a path if it holds a slash.

    Without a name: ``CUBEMESH_PROFILE``, else ``default``. Names live in
    ``$XDG_CONFIG_HOME/cubemesh/profiles`` (``~/.config`` when unset).

    Raises:
        ConfigurationError: this cannot be the name of a profile.

    """
    name = name or environ.get("CUBEMESH_PROFILE") or "default"
    if "/" in name:
        return Path(name).expanduser().absolute()
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot be the name of a profile"
        hint = "letters, digits, '.', '_' and '-', or a path with a slash"
        raise ConfigurationError(message, hint=hint)
    home = environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "cubemesh" / "profiles" / f"{name}.json"


def _read_private(path: Path) -> bytes:
    """Return the content of *path*, if nobody but us (or root) can have written it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        _refuse_others(os.fstat(descriptor), path)
        _refuse_others(path.parent.stat(), path.parent)
        return file.read(_LIMIT + 1)


def _refuse_others(status: os.stat_result, path: Path) -> None:
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid not in {0, os.geteuid()}:
        message = f"the profile is not to be trusted: {path} belongs to another user"
        raise ConfigurationError(message, hint=f"look at it, then: chown {path}")
    if status.st_mode & 0o022 and not sticky:
        message = f"the profile is not to be trusted: others can write {path}"
        raise ConfigurationError(message, hint=f"chmod go-w {path}")
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        message = f"{path} is not a file"
        raise ConfigurationError(message)


def _checked(content: bytes, path: Path) -> dict[str, str]:
    try:
        if len(content) > _LIMIT:
            message = "too long"
            raise ValueError(message)  # noqa: TRY301 - one exit for all faults
        return _strict(json.loads(content))
    except (ValueError, RecursionError) as error:
        message = f"{path} is not a profile: {error}"
        raise ConfigurationError(message, hint=_START_HINT) from None


def _strict(data: object) -> dict[str, str]:
    if not isinstance(data, dict) or data.pop("version", None) != _VERSION:
        message = f"it is not of version {_VERSION}"
        raise ValueError(message)
    known = {field.name for field in fields(Profile)}
    if set(data) != known:
        message = f"unknown or missing: {', '.join(sorted(set(data) ^ known))}"
        raise ValueError(message)
    if not all(isinstance(value, str) for value in data.values()):
        message = "every value must be text"
        raise ValueError(message)
    return data
