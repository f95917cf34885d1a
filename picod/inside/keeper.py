"""The keeper: a process per running command, under which all its descendants stay.

It is forked from the runner and never runs foreign code itself. As a child subreaper
it inherits what double-forks and `setsid` would hide, so the runner finds the whole
tree beneath it. It serves one command after the other: forking an interpreter and
copying its pages costs more than a command does.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import resource

from picod.inside import kernel, rights, search

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    Order = tuple[
        list[bytes], dict[bytes, bytes], bytes, list[tuple[int, int]], bool
    ]  # argv, environment, folder, limits, whether isolated

# What a keeper tells: a letter, then numbers of four bytes
BORN = b"B"  # its own pid, of one that the nursery forked
STARTED = b"S"  # pid
FAILED = b"X"  # stage, errno
ENDED = b"E"  # wait status
ALONE = b"G"  # nothing is beneath it
DESCRIPTORS = 4096  # the runner never has more open
LIMITS, FOLDER, EXECUTE = 1, 2, 3  # the stage that failed
SIGCONT = 18


class Keeper:
    """A keeper and our ends of its pipes.

    Args:
        pid: its number; 0: it will tell.
        ends: our ends of stdout, stderr, report, orders and stdin; -1: there is none.
        control: our end of a socket to what it runs; -1: there is none.
        lasting: whether it serves one command after the other.

    """

    def __init__(
        self,
        pid: int,
        ends: tuple[int, int, int, int, int],
        *,
        control: int = -1,
        lasting: bool = False,
    ) -> None:
        self.stdout, self.stderr, self.report, self._orders, self.stdin = ends
        self.pid, self.control, self.lasting = pid, control, lasting
        self.uses = 0
        for descriptor in (*ends[:2], *ends[3:], control):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)

    @classmethod
    def fork(cls, *, with_input: bool = False, order: Order | None = None) -> Keeper:
        """Make one.

        Args:
            with_input: whether it has a pipe for stdin; then it serves one command.
            order: what to run first, if known; else it waits for `give`.

        Raises:
            OSError: no process or descriptor is left for it.

        """
        ends = pipes(5 if with_input else 4)
        try:
            pid = os.fork()
        except OSError:
            close(ends)
            raise
        orders, our_orders, our_stdout, stdout, our_stderr, stderr = ends[:6]
        our_report, report = ends[6:8]
        stdin, our_stdin = ends[8:] or (0, -1)
        if pid == 0:
            stdio = (stdin, stdout, stderr)
            _live(orders, stdio, report, order, lasting=not with_input)
        close([orders, stdin or -1, stdout, stderr, report])
        ours = (our_stdout, our_stderr, our_report, our_orders, our_stdin)
        return cls(pid, ours, lasting=not with_input)

    def give(self, order: Order) -> bool:
        """Let it run *order*; return False if it cannot, and end it.

        The code inside may have killed it or stopped it, and a pipe holds only so
        much: then the caller makes another.
        """
        data = marshal.dumps(order, 4)
        data = number(len(data)) + data
        try:
            os.kill(self.pid, SIGCONT)
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
        close([self._orders, self.stdout, self.stderr, self.report, self.control])

    def collect(self) -> bool:
        """Wait for its end, which is near; return whether it was killed."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.WIFSIGNALED(status)


def pipes(count: int) -> list[int]:
    """Make *count* pipes: the reading and the writing end of each in turn.

    Raises:
        OSError: there are not so many descriptors.

    """
    ends: list[int] = []
    try:
        for _ in range(count):
            ends += os.pipe()
    except OSError:
        close(ends)
        raise
    return ends


def close(descriptors: list[int]) -> None:
    """Close *descriptors*; -1 stands for none."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


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
        rights.be_the_code()
        kernel.hide()
        kernel.adopt_orphans()
        close_all_but(orders, *stdio, report)
        order = order or _await(orders)
        while order:
            keep(order, stdio, report, search.execute, lasting=lasting)
            order = _await(orders) if lasting else None
    finally:
        os._exit(0)


def close_all_but(*kept: int) -> None:
    """Close every descriptor above 2 that is not one of *kept*."""
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


def keep(
    order: Order,
    stdio: tuple[int, int, int],
    report: int,
    start: Callable[[Order, tuple[int, int, int]], int],
    *,
    lasting: bool = False,
) -> None:
    """Run what *start* starts, tell of it, and wait until nothing is beneath us.

    *start* returns the pid, or raises OSError.
    """
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
        main = start(order, stdio)
    except OSError as error:
        failed = FAILED + number(stage) + number(error.errno or 0)
        os.write(report, failed + ALONE)
        return
    os.write(report, STARTED + number(main))
    kernel.first_to_go(main)
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
