"""One context: its interpreter, the call that runs, and those that wait."""

from __future__ import annotations

import os
import time

from picod import _protocol as wire
from picod.inside.kept import explain
from picod.inside.link import Call
from picod.inside.runs import TIMEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from picod._values import Value
    from picod.inside.contexts import Contexts
    from picod.inside.interpreter import Interpreter
    from picod.inside.keeper import Order
    from picod.inside.runs import Run

_QUEUE = 32  # calls that wait for one context
_GRACE = 2.0  # seconds between SIGINT and the end
_BIRTH = 10.0  # seconds that the start of an interpreter may take
_TRIES = 3
_NEVER = float("inf")


class Ask(Call):
    """The stream of a question about contexts."""

    cancelled = False

    def data(self, _: bytes) -> None:
        """Refuse: nothing belongs to it."""
        raise wire.ProtocolError("a question about contexts takes no data")

    finish = data

    def cancel(self) -> None:
        """Note that nobody waits for the answer."""
        self.cancelled = True

    def go_on(self) -> bool:
        """Do nothing: the answer comes by itself."""
        return False


class Context:
    """One context: its interpreter, the call that runs, and those that wait."""

    def __init__(self, contexts: Contexts, name: bytes, order: Order) -> None:
        self._contexts, self.name, self._order = contexts, name, order
        self.run: Run | None = None
        self._waiting: list[Run] = []
        self._interpreter: Interpreter | None = None
        self._asked: list[tuple[Ask, Callable[[Ask], None]]] = []
        self._count = 0
        self._tries = 0
        self._notice = b""
        self._ending = b""  # why the interpreter is being ended by us
        self._wanted = False  # whether that was asked for
        self._born_by = _NEVER

    @property
    def language(self) -> bytes:
        """What its interpreter speaks."""
        return self._order[0][0]

    def describe(self) -> dict[bytes, Value]:
        """Tell what there is to know."""
        return {
            b"context": self.name,
            b"language": self.language,
            b"cwd": self._order[2],
            b"count": self._count,
            b"busy": int(self.run is not None),
            b"waiting": len(self._waiting),
        }

    # -- calls

    def add(self, run: Run) -> None:
        """Let *run* have its turn."""
        if len(self._waiting) >= _QUEUE:
            run.fail(b"CONTEXT_BUSY", f"{_QUEUE} calls wait for this context already")
            return
        self._waiting.append(run)
        self.advance()

    def advance(self) -> None:
        """Begin the next call, if there is one and nothing is in its way."""
        if self._interpreter is None and (self._waiting or self._asked):
            self._start()
        interpreter = self._interpreter
        if interpreter is None or not interpreter.ready:
            return
        self._born_by = _NEVER
        self._answer()
        if self.run is not None or not self._waiting:
            return
        self.run = self._waiting.pop(0)
        self._count += 1
        notice, self._notice = self._notice, b""
        if self._count == 1:
            failures = self._contexts.nursery.failures()
            notice = b"; ".join(filter(None, (notice, failures)))
        self.run.begin(self._count, notice)
        interpreter.begin(self.run.code)
        interpreter.go_on()

    def cancel(self, run: Run) -> None:
        """Interrupt *run*, whose caller is gone."""
        if run is self.run:
            self._interrupt()
        else:
            self._waiting.remove(run)
            run.done({})

    def go_on(self, run: Run) -> None:
        """Use the new credit of *run*."""
        if run is self.run and self._interpreter is not None:
            self._interpreter.go_on()

    def _interrupt(self) -> None:
        if self._interpreter is not None and self.run is not None:
            self._interpreter.interrupt()
            self.run.kill_at = min(self.run.kill_at, time.monotonic() + _GRACE)

    # -- what the interpreter does

    def _start(self) -> None:
        try:
            self._interpreter = self._contexts.bear(self, self._order)
        except OSError as error:
            self._give_up(b"PROCESS_LIMIT", os.strerror(error.errno or 0).lower())
        else:
            self._born_by = time.monotonic() + _BIRTH

    def finished(self) -> None:
        """Note that the interpreter is through with the current call."""
        run, self.run = self.run, None
        self._tries = 0
        if run is not None:
            run.end()
        self.advance()

    def gone(self) -> None:
        """Note that no process of the interpreter is left."""
        interpreter, self._interpreter = self._interpreter, None
        ending, self._ending = self._ending, b""
        wanted, self._wanted = self._wanted, False
        assert interpreter is not None  # noqa: S101
        if not ending and (not interpreter.begun or self._may_repeat(interpreter)):
            self._not_begun(interpreter)
            return
        self._count, self._born_by, self._tries = 0, _NEVER, 0
        fate = ending or interpreter.fate.encode()
        run, self.run = self.run, None
        if run is not None:
            run.end(b"the interpreter is gone: " + fate)
        if not wanted:
            self._notice = b"this interpreter is new, what was defined is gone: " + fate
        self._answer()
        self.advance()

    def _may_repeat(self, interpreter: Interpreter) -> bool:
        """Put the call back of which nothing ran: a spare one may have been killed."""
        run = self.run
        if run is None or run.cancelled or run.cause or not interpreter.untouched:
            return False
        self.run, self._count = None, 0
        self._waiting.insert(0, run)
        return True

    def _not_begun(self, interpreter: Interpreter) -> None:
        """Try again, or tell all who wait why there is no interpreter."""
        self._tries += 1
        if interpreter.failure[0]:
            self._give_up(*explain(*interpreter.failure))
        elif self._tries >= _TRIES:
            self._give_up(b"PROCESS_LIMIT", "the interpreter did not start")
        else:
            self.advance()

    def _give_up(self, reason: bytes, detail: str) -> None:
        self._tries = 0
        waiting, self._waiting = self._waiting, []
        asked, self._asked = self._asked, []
        for call in [*waiting, *(ask for ask, _ in asked)]:
            call.fail(reason, detail)
        if asked:
            self._contexts.forget(self)

    # -- what is asked of it

    def create(self, ask: Ask) -> None:
        """Answer *ask* once the interpreter runs."""
        self._asked.append((ask, self._told_of_birth))
        self.advance()

    def end(self, ask: Ask, why: bytes) -> None:
        """End the interpreter because of *why*, then answer *ask*."""
        self._asked.append((ask, lambda each: each.done(self.describe())))
        self._notice, self._wanted = b"", True
        if self._interpreter is not None:
            self._ending = why
            self._interpreter.kill(0)
        else:
            self._wanted = False
            self._answer()

    def delete(self, ask: Ask) -> None:
        """End it with all its processes, then answer *ask*."""
        waiting, self._waiting = self._waiting, []
        for run in waiting:
            run.fail(b"CONTEXT_NOT_FOUND", "the context was deleted meanwhile")
        self.end(ask, b"the context was deleted")

    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        for ask, tell in asked:
            tell(ask)

    def _told_of_birth(self, ask: Ask) -> None:
        if ask.cancelled:
            self._contexts.forget(self)
            self.delete(ask)
        else:
            ask.done(self.describe())

    # -- time

    def due(self) -> Iterator[float]:
        """Yield when `on_time` has something to do."""
        yield self._born_by
        for run in self._waiting:
            yield run.deadline
        if self.run is not None:
            yield min(self.run.kill_at, self.run.deadline)

    def on_time(self, now: float) -> None:
        """Do what is due at *now*."""
        for run in [run for run in self._waiting if run.deadline <= now]:
            self._waiting.remove(run)
            run.fail(b"CONTEXT_BUSY", "the time of the call was up before its turn")
        current = self.run
        if current is not None:
            self._check_time(current, now)
        if self._born_by <= now:
            self._born_by = now + _BIRTH
            if self._contexts.nursery.silent(now - _BIRTH):
                self._contexts.nursery.end()  # then `gone` tries again

    def _check_time(self, run: Run, now: float) -> None:
        if run.deadline <= now:
            run.cause, run.deadline = TIMEOUT, _NEVER
            self._interrupt()
        if run.kill_at <= now and self._interpreter is not None:
            run.kill_at = _NEVER
            self._ending = b"it did not end within %d s after SIGINT" % _GRACE
            self._interpreter.kill(0)
