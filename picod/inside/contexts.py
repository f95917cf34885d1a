"""The contexts of a sandbox, by name: making, finding and ending them."""

from __future__ import annotations

from picod._values import number, text
from picod.inside.context import Ask, Context
from picod.inside.interpreter import Interpreter
from picod.inside.orders import order_of
from picod.inside.runs import Run
from picod.inside.search import PLACES, candidates
from picod.inside.spare import Spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.keeper import Order
    from picod.inside.link import Call, Link
    from picod.inside.nursery import Nursery
    from picod.inside.reaper import Reaper

_MOST = 16  # contexts at once
_PROGRAMS = {b"python": b"", b"bash": b"bash", b"node": b"node"}
_NEVER = float("inf")
_UNKNOWN = (b"CONTEXT_NOT_FOUND", "there is no such context")


class Contexts:
    """All contexts, by name.

    Args:
        link: what interpreters are heard over.
        reaper: knows their keepers.
        nursery: where they come from.
        defaults: PicoD's HELLO.

    """

    def __init__(
        self,
        link: Link,
        reaper: Reaper,
        nursery: Nursery,
        defaults: dict[bytes, Value],
    ) -> None:
        self._link, self._reaper, self._defaults = link, reaper, defaults
        self.nursery = nursery
        self._spare = Spare(nursery, self._fork, defaults)
        self._named: dict[bytes, Context] = {}
        self._made = 0

    def take(self, call: Call, request: dict[bytes, Value]) -> Ask | Run | None:
        """Do what *request* asks, and return its stream; None: not for contexts."""
        operation = text(request, b"op")
        if operation == b"run":
            return self._run(call, request)
        known = {
            b"context_create": self._create,
            b"context_list": self._list,
            b"context_restart": self._restart,
            b"context_delete": self._delete,
        }.get(operation)
        if known is None:
            return None
        ask = Ask(call.link, call.stream)
        known(ask, request)
        return ask

    def bear(self, context: Context, order: Order) -> Interpreter:
        """Make an interpreter for *context*, or take the spare one.

        Raises:
            OSError: no process or descriptor is left for it.

        """
        made = self._spare.take(context, order)
        if made is None:
            made = self._fork(context, order)
            made.serve(context, order[1])
        return made

    def _fork(self, context: Context | Spare, order: Order) -> Interpreter:
        kept = self.nursery.bear(order)
        return Interpreter(kept, self._link, self._reaper, context)

    @property
    def ahead_at(self) -> float:
        """When to fork an interpreter ahead: not while a call runs."""
        busy = any(each.run is not None for each in self._named.values())
        return _NEVER if busy else self._spare.wanted_at

    def think_ahead(self) -> None:
        """Fork an interpreter ahead.

        Raises:
            OSError: no process or descriptor is left for it.

        """
        self._spare.make()

    def forget(self, context: Context) -> None:
        """Let *context* be none of ours any more."""
        if self._named.get(context.name) is context:
            del self._named[context.name]

    def due(self) -> float:
        """Tell when `on_time` has something to do."""
        times = [each for one in self._named.values() for each in one.due()]
        return min([self.nursery.overdue, self._spare.due(), *times])

    def on_time(self, now: float) -> None:
        """Do what is due at *now*, on the monotonic clock."""
        if self.nursery.overdue <= now:
            self.nursery.end()
        self._spare.on_time(now)
        for context in list(self._named.values()):
            context.on_time(now)

    # -- requests

    def _run(self, call: Call, request: dict[bytes, Value]) -> Run | Ask:
        name, language = text(request, b"context"), text(request, b"language")
        refused = Ask(call.link, call.stream)
        context = self._named.get(name)
        if context is None and name in _PROGRAMS:
            context = self._make(refused, name, request | {b"language": name})
        elif context is None:
            refused.fail(*_UNKNOWN)
        if context is None:
            return refused
        if language not in (b"", context.language):
            refused.fail(b"INVALID_REQUEST", "the context has another language")
            return refused
        run = Run(call, context, request, number(self._defaults, b"output"))
        context.add(run)
        return run

    def _make(
        self, ask: Ask, name: bytes, request: dict[bytes, Value]
    ) -> Context | None:
        """Make a context, without its interpreter; None: *ask* was told why not."""
        language = text(request, b"language")
        if len(self._named) >= _MOST:
            ask.fail(b"CONTEXT_LIMIT", f"a sandbox has at most {_MOST} contexts")
            return None
        order = order_of(request | {b"argv": [language]}, self._defaults)
        program = _PROGRAMS.get(language)
        search = order[1].get(b"PATH", PLACES)
        if program is None or (program and not candidates(program, search)):
            shown = language.decode("utf-8", "replace")
            ask.fail(b"LANGUAGE_NOT_AVAILABLE", f"no interpreter of {shown!r} is here")
            return None
        context = self._named[name] = Context(self, name, order)
        return context

    def _create(self, ask: Ask, request: dict[bytes, Value]) -> None:
        self._made += 1
        context = self._make(ask, b"ctx-%d" % self._made, request)
        if context is not None:
            context.create(ask)

    def _list(self, ask: Ask, _: dict[bytes, Value]) -> None:
        contexts: list[Value] = [each.describe() for each in self._named.values()]
        imports: list[Value] = list(self.nursery.told())
        ask.done({b"contexts": contexts, b"imports": imports})

    def _restart(self, ask: Ask, request: dict[bytes, Value]) -> None:
        context = self._named.get(text(request, b"context"))
        if context is None:
            ask.fail(*_UNKNOWN)
        else:
            context.end(ask, b"the context was restarted")

    def _delete(self, ask: Ask, request: dict[bytes, Value]) -> None:
        context = self._named.pop(text(request, b"context"), None)
        if context is None:
            ask.fail(*_UNKNOWN)
        else:
            context.delete(ask)
