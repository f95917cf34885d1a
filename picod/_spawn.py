"""Starting the process of a runner, isolated or not."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from picod._bundle import BOOTSTRAP
from picod._bwrap import OPT, arguments, find_bwrap
from picod._errors import IsolationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from picod._types import Limits

__all__ = ["Place", "Spawned", "none_place", "spawn_bwrap", "spawn_none"]

_NO_ROOT = IsolationError(
    "code in a sandbox must not run as the host's root",
    "give --uid, or run the service as another user",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the code finds its workspace and its temporary folder."""

    workspace: bytes
    scratch: bytes
    isolated: bool
    programs: str = ""
    """A folder to look for programs in first."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A runner's process, the socket to it, and the reading end of its stderr."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    stderr: int
    place: Place


def spawn_bwrap(*, uid: int | None, limits: Limits, python: str) -> Spawned:
    """Start a runner behind bwrap as the host's user *uid* (None: our own).

    Call this in the main thread: the runner is killed when the thread that made it
    ends.

    Raises:
        IsolationError: not here.

    """
    if uid == 0 or (uid is None and os.geteuid() == 0):
        raise _NO_ROOT
    bwrap = find_bwrap()
    with contextlib.ExitStack() as stack:
        inside, descriptors = stack.enter_context(
            arguments(python=python, bootstrap=BOOTSTRAP, limits=limits)
        )
        program = _opened(stack, bwrap.program)
        environment = {}
        inherited = [program, *descriptors]
        if bwrap.library:
            library = _opened(stack, bwrap.library)
            inherited.append(library)
            environment["LD_PRELOAD"] = f"/proc/self/fd/{library}"
        programs = "" if python.startswith("/usr/") else f"{OPT}/bin"
        place = Place(b"/workspace", b"/tmp", isolated=True, programs=programs)
        return _spawn(
            inside, f"/proc/self/fd/{program}", environment, inherited, uid, place
        )


def _opened(stack: contextlib.ExitStack, path: Path) -> int:
    """Open what the sandbox's user may have no way to, and let it execute that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def spawn_none(*, uid: int | None, python: str, folder: Path | None) -> Spawned:
    """Start a runner with no isolation at all, working in *folder*.

    Raises:
        IsolationError: there is no folder, or it would run as root.

    """
    if folder is None:
        raise IsolationError("isolation level none needs a folder of its own")
    if uid == 0 or (uid is None and os.geteuid() == 0):
        raise _NO_ROOT
    inside = ["python3", "-I", "-S", "-c", BOOTSTRAP]
    return _spawn(inside, python, {}, [], uid, none_place(folder, uid))


def none_place(folder: Path, uid: int | None) -> Place:
    """Make the folders of a runner that nothing isolates."""
    for name in ("workspace", "tmp"):
        made = folder / name
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
        if uid is not None:
            os.chown(made, uid, uid)
    real = os.fsencode(folder.resolve())
    return Place(real + b"/workspace", real + b"/tmp", isolated=False)


def _spawn(  # noqa: PLR0913, PLR0917
    argv: list[str],
    program: str,
    environment: Mapping[str, str],
    descriptors: list[int],
    uid: int | None,
    place: Place,
) -> Spawned:
    ours, theirs = socket.socketpair()
    stderr, stderr_of_runner = os.pipe()
    identity: dict[str, object] = {}
    if uid is not None:
        identity = {"user": uid, "group": uid, "extra_groups": []}
    try:
        process = subprocess.Popen(
            argv,
            executable=program,
            env=environment,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=stderr_of_runner,
            pass_fds=descriptors,
            cwd="/",
            umask=0o077,
            **identity,  # type: ignore[call-overload]
        )
    except OSError as error:
        ours.close()
        os.close(stderr)
        raise IsolationError(f"cannot start the runner: {error}") from error
    finally:
        theirs.close()
        os.close(stderr_of_runner)
    ours.setblocking(False)  # noqa: FBT003
    os.set_blocking(stderr, False)
    return Spawned(process, ours, stderr, place)
