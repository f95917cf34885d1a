"""One command as the runner sees it: its keeper, its pipes, its end."""

from __future__ import annotations

import errno
import os
import resource
import select
import time

from picod import _protocol as wire
from picod._values import number, pack, text, texts
from picod.inside import keeper, kernel
from picod.inside.link import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.reaper import Reaper

_SHOWN = b"/workspace"
ENDED, TIMEOUT, OUTPUT_LIMIT = 0, 1, 2
_PROMPT = 0.001  # how long leftovers may end by themselves


class Order:
    """What to run, ready for the kernel."""

    def __init__(
        self,
        request: dict[bytes, Value],
        defaults: dict[bytes, Value],
        workspace: bytes,
    ) -> None:
        self.argv = texts(request, b"argv")
        pairs = texts(defaults, b"environment") + texts(request, b"environment")
        self.environment = dict(zip(pairs[::2], pairs[1::2]))  # noqa: B905
        cwd = text(request, b"cwd")
        if cwd == _SHOWN or cwd.startswith(_SHOWN + b"/"):
            cwd = workspace + cwd[len(_SHOWN) :]
        self.folder = os.path.join(workspace, cwd)
        self.isolated = bool(number(defaults, b"isolated"))
        self.limits = [
            (limit, _capped(limit, number(defaults, name)))
            for limit, name in (
                (resource.RLIMIT_NPROC, b"processes"),
                (resource.RLIMIT_NOFILE, b"open_files"),
                (resource.RLIMIT_FSIZE, b"file_size"),
                (resource.RLIMIT_CPU, b"cpu_seconds"),
                (resource.RLIMIT_DATA, b"memory"),
            )
        ]
        self.limits.append((resource.RLIMIT_CORE, 0))


def _capped(limit: int, value: int) -> int:
    """Nobody may raise a limit above the one we were started with."""
    hard = resource.getrlimit(limit)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


class Command(Call):
    """The stream of one command.

    Args:
        call: its stream.
        order: what to run.
        request: with `timeout_ms` and whether stdin comes.
        output: how many bytes it may write.
        reaper: kills what it leaves.

    """

    def __init__(
        self,
        call: Call,
        order: Order,
        request: dict[bytes, Value],
        output: int,
        reaper: Reaper,
    ) -> None:
        super().__init__(call.link, call.stream)
        self._output, self._reaper = output, reaper
        self.started = time.monotonic()
        self.deadline = self.started + number(request, b"timeout_ms") / 1000
        self.keeper = 0
        self.sweep_at: float | None = None
        self.cause = ENDED
        self._status: int | None = None
        self._ended = 0.0
        self._failure: tuple[int, int] | None = None
        self._begun = False
        self._cancelled = False
        self._gone = False  # no process of it is left
        self._input: list[bytes] = []
        self._input_over = False
        self._pipes: dict[int, int] = {}
        self._start(order, with_input=bool(number(request, b"stdin")))

    def _start(self, order: Order, *, with_input: bool) -> None:
        self._report, report = os.pipe()
        stdin = os.pipe() if with_input else None
        stdout, stderr = os.pipe(), os.pipe()
        theirs = (stdin[0] if stdin else 0, stdout[1], stderr[1])
        try:
            self.keeper = os.fork()
            if self.keeper == 0:
                keeper.keep(order, theirs, report)
        except OSError as error:
            self._failure = (keeper.EXECUTE, error.errno or 0)
            self._gone = True
        finally:
            for descriptor in (report, *theirs):
                if descriptor:
                    os.close(descriptor)
        self._stdin = stdin[1] if stdin else -1
        if stdin:
            os.set_blocking(self._stdin, False)
        self._pipes = {stdout[0]: wire.STDOUT, stderr[0]: wire.STDERR}
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)
        if self._gone:
            os.close(self._report)
            self.go_on()
            return
        self._reaper.keepers[self.keeper] = self
        self.link.watch(self._report, select.EPOLLIN, self._hear)
        self.go_on()

    # -- what PicoD sends

    def data(self, payload: bytes) -> None:
        """Give *payload* to its stdin."""
        self.count(len(payload))
        if self._stdin < 0:
            self.take(len(payload))
            return
        self._input.append(payload)
        self._feed()

    def finish(self, _: bytes) -> None:
        """Close its stdin once all was given."""
        self._input_over = True
        self._feed()

    def cancel(self) -> None:
        """Kill it and forget what it writes."""
        self._cancelled = True
        self.kill(ENDED)
        self.go_on()

    # -- what the keeper tells

    def _hear(self) -> None:
        message = os.read(self._report, 64)
        if not message:
            self.link.watch(self._report, 0, self._hear)
            os.close(self._report)
            self._reaper.lost(self)
            return
        while message:
            values = [int.from_bytes(message[at : at + 4], "big") for at in (1, 5)]
            if message[:1] == keeper.STARTED:
                self._begun = True
                if not self._cancelled:
                    self.send(wire.STARTED, pack({b"pid": values[0]}))
                self.go_on()
                message = message[5:]
            elif message[:1] == keeper.FAILED:
                self._failure = (values[0], values[1])
                message = message[9:]
            else:
                self._status = values[0]
                self._ended = time.monotonic()
                self.sweep_at = self._ended + _PROMPT
                message = message[5:]

    def kill(self, cause: int) -> None:
        """End all processes of it; the first *cause* is the one that is told."""
        if self.sweep_at is None:
            self.cause = cause
            self.sweep_at = time.monotonic()

    def gone(self) -> None:
        """Note that no process of it is left."""
        self._gone = True
        self.sweep_at = None
        self.go_on()

    # -- its pipes

    def go_on(self) -> bool:
        """Move what can be moved; finish when all is told."""
        for descriptor in list(self._pipes):
            self._want(descriptor)
            if self._gone:
                self._drain(descriptor)
        if self._gone:
            self._close_input()
            if not self._pipes and not self.over:
                self._tell()
        return False

    def _want(self, descriptor: int) -> None:
        wanted = self._cancelled or (self._begun and self.free)
        mask = select.EPOLLIN if wanted else 0
        self.link.watch(descriptor, mask, lambda: self._read(descriptor))

    def _read(self, descriptor: int) -> bool:
        """Read once; return whether the pipe may hold more."""
        size = wire.MAX_PAYLOAD if self._cancelled else self.free
        if not size:
            self._want(descriptor)
            return False
        try:
            data = os.read(descriptor, size)
        except BlockingIOError:
            return False
        if not data:
            self._close(descriptor)
            return False
        if self._cancelled:
            return True
        kept = data[: self._output]
        self._output -= len(kept)
        if kept:
            self.send(self._pipes[descriptor], kept)
        if len(kept) < len(data):
            self.kill(OUTPUT_LIMIT)
        if not self.free:
            for each in self._pipes:
                self._want(each)
        return True

    def _drain(self, descriptor: int) -> None:
        """Take what a dead command left; who else holds the pipe does not matter."""
        while self._read(descriptor):
            pass
        if descriptor in self._pipes and (self._cancelled or self.free):
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self.link.watch(descriptor, 0, self._hear)
        os.close(descriptor)
        del self._pipes[descriptor]

    def _feed(self) -> None:
        while self._input and self._stdin >= 0:
            chunk = self._input[0]
            try:
                written = os.write(self._stdin, chunk)
            except BlockingIOError:
                break
            except OSError:
                self._close_input()
                return
            self.take(written)
            if written < len(chunk):
                self._input[0] = chunk[written:]
            else:
                del self._input[0]
        if self._stdin >= 0:
            mask = select.EPOLLOUT if self._input else 0
            self.link.watch(self._stdin, mask, self._feed)
            if self._input_over and not self._input:
                self._close_input()

    def _close_input(self) -> None:
        if self._stdin >= 0:
            self.link.watch(self._stdin, 0, self._feed)
            os.close(self._stdin)
            self._stdin = -1
        self.take(sum(map(len, self._input)))
        self._input = []

    # -- its end

    def _tell(self) -> None:
        if not self._begun and not self._cancelled:
            self.fail(*_explain(*(self._failure or (keeper.EXECUTE, errno.EAGAIN))))
            return
        status = kernel.SIGKILL if self._status is None else self._status
        ended = self._ended or time.monotonic()
        self.done(
            {
                b"code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1,
                b"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
                b"cause": self.cause,
                b"duration_ns": int((ended - self.started) * 1e9),
            }
        )


def _explain(stage: int, code: int) -> tuple[bytes, str]:
    """Tell reason and detail of a command that did not start."""
    detail = os.strerror(code).lower()
    if code in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return b"PROCESS_LIMIT", detail
    if stage == keeper.FOLDER:
        known = {
            errno.ENOENT: b"FILE_NOT_FOUND",
            errno.ENOTDIR: b"NOT_A_DIRECTORY",
            errno.EACCES: b"FILE_PERMISSION",
        }
        return known.get(code, b"INVALID_PATH"), f"working directory: {detail}"
    if code == errno.ENOENT:
        return b"COMMAND_NOT_FOUND", "the command was not found"
    if code == errno.E2BIG:
        return b"INVALID_COMMAND", detail
    return b"COMMAND_NOT_EXECUTABLE", detail
