"""The keeper: a process per running command, under which all its descendants stay.

It is forked from the runner and never runs foreign code itself. As a child subreaper
it inherits what double-forks and `setsid` would hide, so the runner finds the whole
tree beneath it. It serves one command after the other: forking an interpreter and
copying its pages costs more than a command does.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import resource

from picod.inside import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    Order = tuple[
        list[bytes], dict[bytes, bytes], bytes, list[tuple[int, int]], bool
    ]  # argv, environment, folder, limits, whether isolated

# What a keeper tells: a letter, then numbers of four bytes
STARTED = b"S"  # pid
FAILED = b"X"  # stage, errno
ENDED = b"E"  # wait status
ALONE = b"G"  # nothing is beneath it
DESCRIPTORS = 4096  # the runner never has more open
LIMITS, FOLDER, EXECUTE = 1, 2, 3  # the stage that failed
_SIGCONT = 18
_SEARCH = b"/usr/local/bin:/usr/bin:/bin"
_GOING_ON = (errno.ENOENT, errno.ENOTDIR)


class Keeper:
    """A keeper and our ends of its pipes.

    Args:
        with_input: whether it has a pipe for stdin; then it serves one command.
        order: what to run first, if known; else it waits for `give`.

    Raises:
        OSError: no process or descriptor is left for it.

    """

    def __init__(self, *, with_input: bool = False, order: Order | None = None) -> None:
        self.lasting = not with_input
        self.uses = 0
        ends: list[int] = []
        try:
            for _ in range(5 if with_input else 4):
                ends += os.pipe()
            self.pid = os.fork()
        except OSError:
            for descriptor in ends:
                os.close(descriptor)
            raise
        orders, self._orders, self.stdout, stdout, self.stderr, stderr = ends[:6]
        self.report, report = ends[6:8]
        stdin, self.stdin = ends[8:] or (0, -1)
        if self.pid == 0:
            stdio = (stdin, stdout, stderr)
            _live(orders, stdio, report, order, lasting=self.lasting)
        for descriptor in (orders, stdin, stdout, stderr, report):
            if descriptor:
                os.close(descriptor)
        for descriptor in (self._orders, self.stdout, self.stderr, self.stdin):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)

    def give(self, order: Order) -> bool:
        """Let it run *order*; return False if it cannot, and end it.

        The code inside may have killed it or stopped it, and a pipe holds only so
        much: then the caller makes another.
        """
        data = marshal.dumps(order, 4)
        data = number(len(data)) + data
        try:
            os.kill(self.pid, _SIGCONT)
            given = os.write(self._orders, data) == len(data)
        except OSError:
            given = False
        self.uses += 1
        if given and not os.waitpid(self.pid, os.WNOHANG)[0]:
            return True
        if given:
            self.pid = 0
        self.end()
        return False

    def end(self) -> None:
        """End it; nothing is beneath it."""
        if self.pid:
            kernel.kill(self.pid)
            self.collect()
        for descriptor in (self._orders, self.stdout, self.stderr, self.report):
            os.close(descriptor)

    def collect(self) -> bool:
        """Wait for its end, which is near; return whether it was killed."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.WIFSIGNALED(status)


def number(value: int) -> bytes:
    """Encode one number of a report."""
    return value.to_bytes(4, "big")


def _live(
    orders: int,
    stdio: tuple[int, int, int],
    report: int,
    order: Order | None,
    *,
    lasting: bool,
) -> NoReturn:
    """Be the keeper."""
    try:
        kernel.adopt_orphans()
        _close_all_but(orders, *stdio, report)
        order = order or _await(orders)
        while order:
            _keep(order, stdio, report, lasting=lasting)
            order = _await(orders) if lasting else None
    finally:
        os._exit(0)


def _close_all_but(*kept: int) -> None:
    low = 3
    for descriptor in sorted(kept):
        if descriptor >= low:
            os.closerange(low, descriptor)
            low = descriptor + 1
    os.closerange(low, DESCRIPTORS)


def _await(orders: int) -> Order | None:
    """Wait for an order; None: there will be no more."""
    head = os.read(orders, 4)
    if not head:
        return None
    left, data = int.from_bytes(head, "big"), b""
    while len(data) < left:
        data += os.read(orders, left - len(data))
    return marshal.loads(data)  # type: ignore[no-any-return]  # noqa: S302


def _keep(
    order: Order, stdio: tuple[int, int, int], report: int, *, lasting: bool
) -> None:
    """Run the command, tell of it, and wait until nothing is beneath us."""
    stage = LIMITS
    try:
        _, _, folder, limits, isolated = order
        if not isolated:
            kernel.end_with_parent()
        for descriptor in stdio[1:]:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)  # the last command's doing
        os.umask(0o022)
        for limit, value in limits:
            resource.setrlimit(limit, (value, value))
        stage = FOLDER
        os.chdir(folder)
        stage = EXECUTE
        main = _execute(order, stdio)
    except OSError as error:
        failed = FAILED + number(stage) + number(error.errno or 0)
        os.write(report, failed + ALONE)
        return
    os.write(report, STARTED + number(main))
    os.chdir("/")
    if not lasting:
        for descriptor in stdio:
            os.close(descriptor)
    _wait(main, report)


def _wait(main: int, report: int) -> None:
    """Collect the dead, and tell when *main* and when the last one is gone."""
    news = b""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG if news else 0)
        except ChildProcessError:
            os.write(report, news + ALONE)
            return
        if news and not pid:
            os.write(report, news)
            news = b""
        if pid == main:
            news = ENDED + number(status)


def _execute(order: Order, stdio: tuple[int, int, int]) -> int:
    """Start the program, searched like a shell would, and return its pid.

    Raises:
        OSError: of the last place that had one, else ENOENT.

    """
    argv, environment, *_ = order
    actions = [(os.POSIX_SPAWN_DUP2, end, wanted) for wanted, end in enumerate(stdio)]
    refused = OSError(errno.ENOENT, "not found")
    for program in _candidates(argv[0], environment.get(b"PATH", _SEARCH)):
        try:
            return os.posix_spawn(
                program,
                argv,
                environment,
                file_actions=actions,
                setsid=True,
                setsigdef=kernel.IGNORED,
            )
        except OSError as error:
            if error.errno not in _GOING_ON:
                refused = error
    raise refused


def _candidates(program: bytes, search: bytes) -> list[bytes]:
    """Name the files that *program* may mean, those that exist."""
    if b"/" in program:
        return [program]
    paths = [(folder or b".") + b"/" + program for folder in search.split(b":")]
    return [path for path in paths if os.path.exists(path)]
