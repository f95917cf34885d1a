"""What runs beneath a keeper, as the runner sees it: heard of, killed, gone."""

from __future__ import annotations

import errno
import os
import select
import time

from picod.inside import keeper, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.link import Link
    from picod.inside.reaper import Reaper

ENDED, TIMEOUT, OUTPUT_LIMIT, MEMORY_LIMIT, SPACE_LIMIT = range(5)
_PROMPT = 0.001  # how long leftovers may end by themselves


class Kept:
    """A tree of processes beneath *kept*.

    Args:
        kept: the keeper.
        link: waits for its reports.
        reaper: kills the tree, and takes the keeper back.

    """

    busy = True  # whether somebody waits for what it does
    taken = True  # whether it is a call's or a context's, and not only kept ready
    forked = False  # whether its first process shares the nursery's memory

    def __init__(self, kept: keeper.Keeper, link: Link, reaper: Reaper) -> None:
        self.kept = kept
        self._link, self._reaper = link, reaper
        self.deadline = float("inf")
        self.sweep_at: float | None = None
        self.cause = ENDED
        self.alone = False  # no process of it is left
        self.pid = 0  # of its first process
        self.begun = False
        self.status: int | None = None  # of its first process, as wait tells it
        self.ended = 0.0
        self.failure = (0, 0)  # the stage and the errno, if it did not start
        if kept.pid:
            reaper.keepers[kept.pid] = self
        else:
            reaper.unborn.add(self)
        link.watch(kept.report, select.EPOLLIN, self._hear)

    def go_on(self) -> bool:
        """Move what can be moved; return whether there is more to do at once."""
        raise NotImplementedError

    def on_start(self) -> None:
        """Take note that its first process runs."""

    def _hear(self) -> None:
        message = os.read(self.kept.report, 64)
        if not message:
            self._link.watch(self.kept.report, 0, self._hear)
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
            self.failure = (first, second)
            return 9
        if kind == keeper.BORN:
            self.kept.pid = first
            self._reaper.unborn.discard(self)
            self._reaper.keepers[first] = self
        elif kind == keeper.STARTED:
            self.begun, self.pid = True, first
            self.on_start()
        else:
            self.status, self.ended = first, time.monotonic()
            prompt = self.ended + _PROMPT
            self.sweep_at = min(self.sweep_at or prompt, prompt)
        return 5

    def kill(self, cause: int) -> None:
        """End all processes of it; the first *cause* is the one that is told."""
        self.cause = self.cause or cause
        if not self.alone:
            self.sweep_at = time.monotonic()

    def settle(self) -> None:
        """Let go of the keeper, beneath which nothing is."""
        self._link.watch(self.kept.report, 0, self._hear)
        self._reaper.release(self)


def explain(stage: int, code: int) -> tuple[bytes, str]:
    """Tell reason and detail of what did not start."""
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


def killed_or_ended(status: int | None) -> tuple[int, int]:
    """Tell exit code (-1: none) and signal (0: none); without *status*: killed."""
    status = kernel.SIGKILL if status is None else status
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
    return code, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
