"""What code in a sandbox sees of files, whichever level shows it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from picod._types import Limits

__all__ = ["OPT", "SECRETS", "USER", "Tmpfs", "View", "host", "program_of", "view"]

OPT = "/opt/python"
"""Where an interpreter from outside /usr is found inside."""

SECRETS = "/run/secrets"
"""Where code finds its secrets: a link into memory, which a session fills."""

USER = 1000
"""The uid and gid that code inside sees; outside it has the sandbox's own."""

_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SHARED = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
_MADE = {
    "passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\n"
    f"user:x:{USER}:{USER}:user:/workspace:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nuser:x:{USER}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A file system in memory: its place, its size in bytes, its mode."""

    place: str
    size: int
    mode: int


@dataclass(frozen=True, slots=True)
class View:
    """All that there is beside /proc and /dev.

    *shown* are paths of the host, read-only and in their own place; *links* are
    symlinks with where they lead; *files* lie in /etc.
    """

    shown: tuple[str, ...]
    links: Mapping[str, str]
    files: Mapping[str, str]
    tmpfs: tuple[Tmpfs, ...]
    folders: tuple[str, ...] = ("/home", "/root", "/run", "/var")


def view(python: str, limits: Limits, *, resolver: str = "") -> View:
    """Make the view for an interpreter and limits.

    *resolver* is the address of the name server; empty: there is none.
    """
    shown, links = host(python)
    resolv = f"nameserver {resolver}\n" if resolver else ""
    return View(
        shown=shown,
        links=links,
        files=_MADE | {"resolv.conf": resolv},
        tmpfs=(
            Tmpfs("/workspace", limits.workspace, 0o755),
            Tmpfs("/tmp", limits.scratch, 0o1777),  # noqa: S108
            Tmpfs("/dev/shm", limits.shared, 0o1777),  # noqa: S108
        ),
    )


@functools.cache
def host(python: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return what is shown of this host for an interpreter, and the links.

    That does not change: whoever is forked from this process has it.
    """
    top = [Path("/", name) for name in _SYSTEM]
    links = {str(path): str(path.readlink()) for path in top if path.is_symlink()}
    shown = ["/usr"]
    shown += [str(path) for path in top if path.is_dir() and not path.is_symlink()]
    if not python.startswith("/usr/"):
        # It stays where it is, as its libraries know their place.
        prefix = str(Path(python).resolve().parent.parent)
        shown.append(prefix)
        links[OPT] = prefix
    shown += [path for path in _SHARED if Path(path).exists()]
    links |= {"/var/tmp": "../tmp", SECRETS: "../dev/shm/secrets"}  # noqa: S108
    return tuple(shown), links


def program_of(python: str) -> str:
    """Return by which path the interpreter is started inside."""
    return python if python.startswith("/usr/") else str(Path(python).resolve())
