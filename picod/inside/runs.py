"""One call of RunCode: it waits for its turn, runs, and is told."""

from __future__ import annotations

import time

from picod import _protocol as wire
from picod._values import number, pack, text
from picod.inside.link import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.context import Context

ENDED, TIMEOUT, DIED = 0, 1, 2
LARGEST_RESULT = 3 * 1024 * 1024
_WORD = 255  # bytes of a media type or an exception's name


class Run(Call):
    """The stream of one call.

    Args:
        call: its stream.
        context: where it runs.
        request: with `code` and `timeout_ms`.
        budget: how many bytes of output and results it may tell.

    """

    def __init__(
        self, call: Call, context: Context, request: dict[bytes, Value], budget: int
    ) -> None:
        super().__init__(call.link, call.stream)
        self.context = context
        self.code = text(request, b"code")
        self.deadline = time.monotonic() + number(request, b"timeout_ms") / 1000
        self.cause = ENDED
        self.cancelled = False
        self.kill_at = float("inf")  # when it has had its time after SIGINT
        self._began = 0.0
        self._budget = budget
        self._omitted = [0, 0]  # bytes of output, results
        self._head: dict[bytes, Value] = {}  # of the result that is coming
        self._awaited = 0  # bytes of it that must still come
        self._pieces: list[bytes] = []
        self._waiting: list[tuple[int, bytes]] = []  # frames without credit yet
        self._failed = False

    @property
    def roomy(self) -> bool:
        """Whether a whole packet of an interpreter can be passed on."""
        if self.cancelled or self.over:
            return True
        enough = self.credit >= wire.MAX_PAYLOAD and self.link.room
        return enough and not self._waiting

    # -- what PicoD sends

    def data(self, _: bytes) -> None:
        """Refuse: nobody reads it."""
        raise wire.ProtocolError("code has no standard input")

    finish = data

    def cancel(self) -> None:
        """Interrupt it and forget what it does."""
        self.cancelled = True
        self.context.cancel(self)

    def go_on(self) -> bool:
        """Use what credit there is."""
        self._flush()
        self.context.go_on(self)
        return False

    # -- what the interpreter does

    def begin(self, count: int, notice: bytes) -> None:
        """Tell that its turn has come, once."""
        if self._began:
            return
        self._began = time.monotonic()
        values: dict[bytes, Value] = {
            b"context": self.context.name,
            b"count": count,
            b"notice": notice,
        }
        self.start(values)

    def output(self, kind: int, data: bytes) -> None:
        """Pass on what it wrote, as far as the budget goes."""
        kept = data[: self._budget]
        self._budget -= len(kept)
        self._omitted[0] += len(data) - len(kept)
        if kept:
            self._say(kind, kept)

    def result(self, told: dict[bytes, Value]) -> None:
        """Take the head of a result; its data follows.

        Raises:
            wire.ProtocolError: it is none.

        """
        if self._awaited:
            raise wire.ProtocolError("a result within a result")
        self._head, self._awaited, self._pieces = told, _size(told), []
        self._complete()

    def result_data(self, data: bytes) -> None:
        """Take a piece of the last result.

        Raises:
            wire.ProtocolError: there is none, or it is complete.

        """
        if len(data) > self._awaited:
            raise wire.ProtocolError("more of a result than it said")
        self._awaited -= len(data)
        self._pieces.append(data)
        self._complete()

    def _complete(self) -> None:
        """Pass a result on once it is there, if the budget holds it."""
        if self._awaited:
            return
        size = sum(map(len, self._pieces))
        if size > self._budget:
            self._omitted[1] += 1
            return
        self._budget -= size
        self._waiting.append((wire.RESULT, pack(self._head)))
        self._waiting += [(wire.DATA, piece) for piece in self._pieces]
        self._flush()

    def _flush(self) -> None:
        while self._waiting and len(self._waiting[0][1]) <= self.credit:
            self._say(*self._waiting.pop(0))

    def raised(self, told: dict[bytes, Value]) -> None:
        """Pass on how it failed; only the first time counts.

        Raises:
            wire.ProtocolError: it does not tell that.

        """
        values: dict[bytes, Value] = {
            key: text(told, key) for key in (b"name", b"value", b"traceback")
        }
        if len(text(told, b"name")) > _WORD:
            raise wire.ProtocolError("no exception has such a name")
        if not self._failed:
            self._failed = True
            self._say(wire.RAISED, pack(values))

    # -- its end

    def end(self, died: bytes = b"") -> None:
        """Tell that it is over; *died*: together with its interpreter, and why."""
        cause = self.cause
        if died:
            self.raised(
                {b"name": b"InterpreterDied", b"value": died, b"traceback": b""}
            )
            cause = cause or DIED
        self.over = True
        values: dict[bytes, Value] = {
            b"cause": cause,
            b"duration_ns": int((time.monotonic() - self._began) * 1e9),
            b"lost": int(bool(died)),
            b"output_omitted": self._omitted[0],
            b"results_omitted": self._omitted[1],
        }
        self.send(wire.DONE, pack({} if self.cancelled else values))

    def _say(self, kind: int, payload: bytes) -> None:
        if not self.cancelled and not self.over:
            self.send(kind, payload)


def _size(told: dict[bytes, Value]) -> int:
    """Return how many bytes of data the head of a result announces.

    Raises:
        wire.ProtocolError: it is no such head.

    """
    number(told, b"main")
    parts, cut = told.get(b"parts"), told.get(b"cut")
    if not isinstance(parts, dict) or not isinstance(cut, dict):
        raise wire.ProtocolError("a result without parts")
    sizes = [number(parts, name) for name in parts]
    notes = [text(cut, name) for name in cut]
    if max(map(len, [*parts, *cut, *notes]), default=0) > _WORD:
        raise wire.ProtocolError("no result has such names")
    if min(sizes, default=0) < 0 or sum(sizes) > LARGEST_RESULT:
        raise wire.ProtocolError("no result has such sizes")
    return sum(sizes)
