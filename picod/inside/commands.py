"""One command as the runner sees it: its keeper, its pipes, its end."""

from __future__ import annotations

import errno
import os
import select
import time

from picod import _protocol as wire
from picod._values import number, pack
from picod.inside import keeper, kernel
from picod.inside.link import Call
from picod.inside.stdin import Input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.reaper import Reaper

ENDED, TIMEOUT, OUTPUT_LIMIT = 0, 1, 2
_PROMPT = 0.001  # how long leftovers may end by themselves


class Command(Call):
    """The stream of one command.

    Args:
        call: its stream.
        kept: the keeper that runs it.
        request: with `timeout_ms`.
        output: how many bytes it may write.
        reaper: kills what it leaves, and takes the keeper back.

    """

    def __init__(
        self,
        call: Call,
        kept: keeper.Keeper,
        request: dict[bytes, Value],
        output: int,
        reaper: Reaper,
    ) -> None:
        super().__init__(call.link, call.stream)
        self.kept = kept
        self._output, self._reaper = output, reaper
        self.started = time.monotonic()
        self.deadline = self.started + number(request, b"timeout_ms") / 1000
        self.sweep_at: float | None = None
        self.cause = ENDED
        self.alone = False  # no process of it is left
        self._status: int | None = None
        self._ended = 0.0
        self._failure = (0, 0)
        self._begun = self._cancelled = False
        self._pipes = {kept.stdout: wire.STDOUT, kept.stderr: wire.STDERR}
        self.input = Input(self, kept.stdin)
        reaper.keepers[kept.pid] = self
        self.link.watch(kept.report, select.EPOLLIN, self._hear)

    # -- what PicoD sends

    def data(self, payload: bytes) -> None:
        """Give *payload* to its stdin."""
        self.input.add(payload)

    def finish(self, _: bytes) -> None:
        """Close its stdin once all was given."""
        self.input.finish()

    def cancel(self) -> None:
        """Kill it and forget what it writes."""
        self._cancelled = True
        self.kill(ENDED)

    # -- what the keeper tells

    def _hear(self) -> None:
        message = os.read(self.kept.report, 64)
        if not message:
            self.link.watch(self.kept.report, 0, self._hear)
            self._reaper.lost(self)
        while message:
            message = message[self._note(message) :]
        self.go_on()

    def _note(self, message: bytes) -> int:
        """Note the first piece of news in *message*; return its length."""
        first, second = (int.from_bytes(message[at : at + 4], "big") for at in (1, 5))
        kind = message[:1]
        if kind == keeper.ALONE:
            self.alone, self.sweep_at = True, None
            return 1
        if kind == keeper.FAILED:
            self._failure = (first, second)
            return 9
        if kind == keeper.STARTED:
            self._begun = True
            if not self._cancelled:
                self.send(wire.STARTED, pack({b"pid": first}))
        else:
            self._status, self._ended = first, time.monotonic()
            if self.sweep_at is None:
                self.sweep_at = self._ended + _PROMPT
        return 5

    def kill(self, cause: int) -> None:
        """End all processes of it; the first *cause* is the one that is told."""
        self.cause = self.cause or cause
        if not self.alone:
            self.sweep_at = time.monotonic()

    # -- its pipes

    def go_on(self) -> bool:
        """Move what can be moved; finish when all is told."""
        for descriptor in list(self._pipes):
            if self.alone:
                self._drain(descriptor)
            else:
                self._want(descriptor)
        if self.alone and not self._pipes and not self.over:
            self._tell()
            self._settle()
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
            self._leave(descriptor)
            return False
        if not self._cancelled:
            self._pass_on(self._pipes[descriptor], data)
        return True

    def _pass_on(self, kind: int, data: bytes) -> None:
        kept = data[: self._output]
        self._output -= len(kept)
        if kept:
            self.send(kind, kept)
        if len(kept) < len(data):
            self.kill(OUTPUT_LIMIT)
        if not self.free:
            for descriptor in self._pipes:
                self._want(descriptor)

    def _drain(self, descriptor: int) -> None:
        """Take what a dead command left; who else holds the pipe does not matter."""
        while self._read(descriptor):
            pass
        if descriptor in self._pipes and (self._cancelled or self.free):
            self._leave(descriptor)

    def _leave(self, descriptor: int) -> None:
        self.link.watch(descriptor, 0, self._hear)
        del self._pipes[descriptor]

    # -- its end

    def _settle(self) -> None:
        self.input.close()
        self.link.watch(self.kept.report, 0, self._hear)
        self._reaper.release(self)

    def _tell(self) -> None:
        if not self._begun and not self._cancelled:
            if self._failure[0]:
                self.fail(*_explain(*self._failure))
                return
            # Code of the sandbox killed the keeper before it could tell the number
            self.send(wire.STARTED, pack({b"pid": 0}))
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
