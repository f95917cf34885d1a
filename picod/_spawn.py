"""Starting the process of a runner, isolated or not."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from picod._bundle import BOOTSTRAP
from picod._bwrap import arguments, find_bwrap
from picod._errors import IsolationError
from picod._gvisor import arguments as gvisor_arguments
from picod._gvisor import bundle_at, find_runsc, find_setpriv
from picod._view import OPT, program_of, view
from picod.seccomp import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from picod._types import Limits

__all__ = [
    "Place",
    "Spawned",
    "none_place",
    "spawn_bwrap",
    "spawn_gvisor",
    "spawn_none",
]

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
    filter: bytes = b""
    """Of system calls, for the runner to put around itself."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A runner's process, the socket to it, and the reading end of its stderr."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    stderr: int
    place: Place
    nested: bool = False
    """Whether the runner is a child of the process."""


def spawn_bwrap(
    *, uid: int | None, limits: Limits, python: str, resolver: str = ""
) -> Spawned:
    """Start a runner behind bwrap as the host's user *uid* (None: our own).

    *resolver* is the address of the name server inside, if there is to be one.

    Call this in the main thread, before there is another: the runner is killed when
    the thread that made it ends, and meanwhile all threads are that user.

    Raises:
        IsolationError: not here.

    """
    _refuse_root(uid)
    bwrap = find_bwrap()
    with contextlib.ExitStack() as stack:
        inside, descriptors = stack.enter_context(
            arguments(
                view(python, limits, resolver=resolver),
                python=program_of(python),
                bootstrap=BOOTSTRAP,
            )
        )
        program = _opened(stack, bwrap.program)
        environment = {}
        inherited = [program, *descriptors]
        if bwrap.library:
            library = _opened(stack, bwrap.library)
            inherited.append(library)
            environment["LD_PRELOAD"] = f"/proc/self/fd/{library}"
        place = _place(python)
        made = _spawn(
            inside, f"/proc/self/fd/{program}", environment, inherited, uid, place
        )
        return replace(made, nested=True)


def spawn_gvisor(
    *, uid: int | None, limits: Limits, python: str, folder: Path | None
) -> Spawned:
    """Start a runner in gVisor as the host's user *uid*, with a bundle in *folder*.

    Call this in the main thread, as `spawn_bwrap`.

    Raises:
        IsolationError: not here.

    """
    if folder is None:
        raise IsolationError("isolation level gvisor needs a folder of its own")
    _refuse_root(uid)
    setpriv, program = find_setpriv(), find_runsc()
    argv = [program_of(python), "-I", "-S", "-c", BOOTSTRAP]
    bundle_at(folder / "bundle", view(python, limits), argv, uid)
    with contextlib.ExitStack() as stack:
        opened = _opened(stack, program)
        inside = gvisor_arguments(
            setpriv, f"/proc/self/fd/{opened}", folder.resolve() / "bundle"
        )
        place = replace(_place(python), filter=load())
        return _spawn(inside, setpriv, {}, [opened], uid, place)


def _place(python: str) -> Place:
    programs = "" if python.startswith("/usr/") else f"{OPT}/bin"
    return Place(b"/workspace", b"/tmp", isolated=True, programs=programs)


def _refuse_root(uid: int | None) -> None:
    if uid == 0 or (uid is None and os.geteuid() == 0):
        raise _NO_ROOT


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
    _refuse_root(uid)
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
    try:
        with _as_user(uid):
            process = subprocess.Popen(
                argv,
                executable=program,
                env=environment,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=stderr_of_runner,
                pass_fds=descriptors,
                cwd="/",
                umask=0o077,
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


@contextlib.contextmanager
def _as_user(uid: int | None) -> Iterator[None]:
    """Be *uid* while a program is started, which then has nothing of root any more.

    Told to change its user itself, `subprocess` would copy all of our memory first
    (fork instead of vfork). Our saved ids stay root's, so that we come back; those of
    the new program are what the real ones are. Source: execve(2), credentials(7).
    """
    if uid is None:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(uid, uid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
