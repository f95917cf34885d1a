"""One command as the runner sees it: its keeper, its pipes, its end."""

from __future__ import annotations

import os
import select
import time

from picod import _protocol as wire
from picod._values import number
from picod.inside.kept import ENDED, OUTPUT_LIMIT, Kept, explain, killed_or_ended
from picod.inside.link import Call
from picod.inside.stdin import Input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.keeper import Keeper
    from picod.inside.reaper import Reaper


class Command(Kept, Call):
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
        kept: Keeper,
        request: dict[bytes, Value],
        output: int,
        reaper: Reaper,
    ) -> None:
        Call.__init__(self, call.link, call.stream)
        Kept.__init__(self, kept, call.link, reaper)
        self._output = output
        self.started = time.monotonic()
        self.deadline = self.started + number(request, b"timeout_ms") / 1000
        self._cancelled = False
        self._pipes = {kept.stdout: wire.STDOUT, kept.stderr: wire.STDERR}
        self.input = Input(self, kept.stdin)

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

    def on_start(self) -> None:
        """Tell that it runs."""
        if not self._cancelled:
            self.start({b"pid": self.pid})

    # -- its pipes

    def go_on(self) -> bool:
        """Move what can be moved; finish when all is told."""
        if self.alone and not self.begun and not self.failure[0]:
            # Code of the sandbox killed the keeper before it could tell the number
            self.begun = True
            self.on_start()
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
        wanted = self._cancelled or (self.begun and self.free)
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
        self.link.watch(descriptor, 0, self.go_on)
        del self._pipes[descriptor]

    # -- its end

    def _settle(self) -> None:
        self.input.close()
        self.settle()

    def _tell(self) -> None:
        if not self.begun and not self._cancelled:
            self.fail(*explain(*self.failure))
            return
        code, signal = killed_or_ended(self.status)
        ended = self.ended or time.monotonic()
        self.done(
            {
                b"code": code,
                b"signal": signal,
                b"cause": self.cause,
                b"duration_ns": int((ended - self.started) * 1e9),
            }
        )
