"""The keeper: a process per command, under which all its descendants stay.

It is forked from the runner and never runs foreign code itself. As a child subreaper
it inherits what double-forks and `setsid` would hide, so the runner finds the whole
tree beneath it.
"""

from __future__ import annotations

import errno
import os
import resource

from picod.inside import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.commands import Order

# What a keeper tells: a letter, then numbers of four bytes
STARTED = b"S"  # pid
FAILED = b"X"  # stage, errno
ENDED = b"E"  # wait status
DESCRIPTORS = 4096  # the runner never has more open
FOLDER, EXECUTE, LIMITS = 1, 2, 3  # the stage that failed


def number(value: int) -> bytes:
    """Encode one number of a report."""
    return value.to_bytes(4, "big")


def keep(order: Order, stdio: tuple[int, int, int], report: int) -> None:
    """Run *order* and tell of it on *report*; never returns.

    Args:
        order: what to run.
        stdio: what becomes descriptors 0, 1 and 2 of the command.
        report: the writing end of the pipe to the runner.

    """
    try:
        _keep(order, stdio, report)
    except OSError as error:
        os.write(report, FAILED + number(EXECUTE) + number(error.errno or 0))
    finally:
        os._exit(0)


def _keep(order: Order, stdio: tuple[int, int, int], report: int) -> None:
    kernel.adopt_orphans()
    if not order.isolated:
        kernel.end_with_parent()
    failure, to_us = os.pipe()
    main = os.fork()
    if main == 0:
        _become(order, stdio, to_us)
    _close_all_but(report, failure)
    problem = os.read(failure, 8)
    os.write(report, FAILED + problem if problem else STARTED + number(main))
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return
        if pid == main and not problem:
            os.write(report, ENDED + number(status))


def _close_all_but(*kept: int) -> None:
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, DESCRIPTORS)


def _become(order: Order, stdio: tuple[int, int, int], failure: int) -> None:
    """Turn this process into the command; never returns."""
    stage = LIMITS
    try:
        os.setsid()
        for wanted, descriptor in enumerate(stdio):
            os.dup2(descriptor, wanted)
        stage = FOLDER
        os.chdir(order.folder)
        stage = LIMITS
        os.umask(0o022)
        for limit, value in order.limits:
            resource.setrlimit(limit, (value, value))
        kernel.default_signals()
        stage = EXECUTE
        _execute(order)
    except OSError as error:
        os.write(failure, number(stage) + number(error.errno or 0))
    finally:
        os._exit(127)


def _execute(order: Order) -> None:
    """Execute the program, searched like a shell would.

    Raises:
        OSError: of the last place that had one, else ENOENT.

    """
    program = order.argv[0]
    if b"/" in program:
        os.execve(program, order.argv, order.environment)  # noqa: S606
    refused = FileNotFoundError(errno.ENOENT, "not found")
    for folder in order.environment.get(b"PATH", b"/usr/bin:/bin").split(b":"):
        try:
            os.execve(folder + b"/" + program, order.argv, order.environment)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            refused = error  # type: ignore[assignment]
    raise refused
