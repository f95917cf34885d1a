"""The spare: one interpreter that is forked before anybody asks for it."""

from __future__ import annotations

import time

from picod._values import number
from picod.inside.orders import order_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from picod._values import Value
    from picod.inside.context import Context
    from picod.inside.interpreter import Interpreter
    from picod.inside.keeper import Order
    from picod.inside.nursery import Nursery

    Fork = Callable[["Spare", Order], Interpreter]

_REQUEST: dict[bytes, Value] = {  # as of a context about which nothing is said
    b"argv": [b"python"],
    b"environment": [],
    b"cwd": b"",
}
_PROCESSES = 64  # below this limit its two processes would be missed
_MEMORY = 128 * 1024 * 1024  # below this one its memory
_BIRTH = 10.0  # seconds that its start may take
_AFTER = 0.25  # seconds from one that was taken, or missed, to the next
_PAUSE = 5.0  # from one that died
_NEVER = float("inf")


class Spare:
    """Stands in for the context of an interpreter that no context has yet.

    It speaks Python and stands in the folder where contexts begin; what only a session
    knows, it is told when a context takes it.

    Args:
        nursery: where it comes from.
        fork: makes an interpreter.
        defaults: PicoD's HELLO.

    """

    run = None  # no call is its

    def __init__(
        self, nursery: Nursery, fork: Fork, defaults: dict[bytes, Value]
    ) -> None:
        self._nursery, self._fork = nursery, fork
        self._order = order_of(_REQUEST, defaults)
        self._interpreter: Interpreter | None = None
        self._born_by = _NEVER
        roomy = number(defaults, b"processes") >= _PROCESSES
        affordable = number(defaults, b"memory") >= _MEMORY
        self._again_at = 0.0 if roomy and affordable else _NEVER

    @property
    def wanted_at(self) -> float:
        """When to make it: once the nursery has imported everything."""
        if self._interpreter is not None or not self._nursery.ready_at:
            return _NEVER
        return self._again_at

    def make(self) -> None:
        """Have it forked.

        Raises:
            OSError: no process or descriptor is left for it.

        """
        self._interpreter = self._fork(self, self._order)
        self._born_by = time.monotonic() + _BIRTH

    def take(self, context: Context, order: Order) -> Interpreter | None:
        """Give it to *context*; None: there is none, or none that fits *order*."""
        spare = self._interpreter
        if spare is None:  # nor shall the call that comes next wait for one
            self._again_at = max(self._again_at, time.monotonic() + _AFTER)
            return None
        argv, environment, *rest = order
        if [argv, *rest] != [self._order[0], *self._order[2:]]:
            return None
        if not spare.begun:
            self._nursery.wake()
        if not spare.serve(context, environment):
            return None  # it has died: `gone` will tell
        self._lose(_AFTER)
        return spare

    def _lose(self, pause: float) -> None:
        self._interpreter, self._born_by = None, _NEVER
        self._again_at = time.monotonic() + pause

    # -- what its interpreter does

    def advance(self) -> None:
        """Note that it runs."""
        self._born_by = _NEVER

    def finished(self) -> None:
        """Do nothing: it was given no call."""

    def gone(self) -> None:
        """Note that no process of it is left."""
        self._lose(_PAUSE)

    # -- time

    def due(self) -> float:
        """Tell when `on_time` has something to do."""
        return self._born_by

    def on_time(self, now: float) -> None:
        """Give up at *now* a nursery that has not forked it."""
        if self._born_by <= now:
            self._born_by = now + _BIRTH
            if self._nursery.silent(now - _BIRTH):
                self._nursery.end()  # then `gone` follows
