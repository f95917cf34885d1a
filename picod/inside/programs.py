"""Interpreters that are programs of their own, driven by ours over two pipes."""

from __future__ import annotations

import os
from os import close, pipe, read, waitpid, write

from picod.inside.search import PLACES, candidates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CODE, ANSWER, STDERR = 211, 212, 213  # descriptors in the program
_SIGINT = 2


class Program:
    """A program that takes cells, each ended by NUL, and answers each.

    Args:
        argv: what to run; the first is searched.
        environment: added to ours.
        silent: whether its own standard error is `STDERR` and 2 leads to nothing.

    """

    def __init__(
        self,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        *,
        silent: bool = False,
    ) -> None:
        stdin, self._stdin = pipe()
        code, self._code = pipe()
        self._answer, answer = pipe()
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]]
        actions = [
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, code, CODE),
            (os.POSIX_SPAWN_DUP2, answer, ANSWER),
        ]
        if silent:
            actions.append((os.POSIX_SPAWN_DUP2, 2, STDERR))
            actions.append((os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0))
        self._pid = os.posix_spawn(
            candidates(argv[0], os.environb.get(b"PATH", PLACES))[0],
            argv,
            {**os.environb, **environment},
            file_actions=actions,
            setsigdef=[_SIGINT],
        )
        for descriptor in (stdin, code, answer):
            close(descriptor)

    def say(self, line: bytes) -> None:
        """Write *line* to its standard input."""
        _write_all(self._stdin, line)

    def give(self, code: bytes) -> None:
        """Give it a cell."""
        _write_all(self._code, code + b"\0")

    def answer(self) -> bytes:
        """Wait for its answer; end as it ends, should it end before."""
        parts: list[bytes] = []
        while True:
            more = read(self._answer, 65536)
            if not more:
                self._follow()
            parts.append(more)
            if more.endswith(b"\0"):
                return b"".join(parts)[:-1]

    def _follow(self) -> NoReturn:
        _, status = waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[write(descriptor, data) :]
