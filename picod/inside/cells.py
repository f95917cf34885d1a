"""Python code, run like the cells of a notebook: one namespace, the last value shown.

The names are bound when this is loaded: code may replace them in their modules.
"""

from __future__ import annotations
import __future__

import builtins
import os
import sys
from _ast import Expr, Expression, Module, PyCF_ALLOW_TOP_LEVEL_AWAIT, PyCF_ONLY_AST
from _signal import SIG_IGN, SIGINT, default_int_handler, signal

from picod import _protocol as wire
from picod._values import pack
from picod.inside import figures
from picod.inside.bundles import Bundle, bundle, of_forms
from picod.inside.traces import encoded, said, trimmed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

    from picod._values import Value
    from picod.inside.channel import Channel

_COROUTINE = 0x80
_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag
_TRACE = 24 * 1024  # bytes of a traceback that are told
_VALUE = 4 * 1024  # of the exception's own text
_ASKING = ("warn", "inspect", "traceback", "linecache")
_exit, _modules, _eval, _compile = os._exit, sys.modules, eval, compile


class Python:
    """Runs cells.

    Args:
        channel: what they print, show and raise goes there.

    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        main = type(sys)("__main__")
        main.__builtins__ = builtins  # type: ignore[attr-defined]
        sys.modules["__main__"] = main
        self._names = main.__dict__
        self._flags = PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._sources: dict[str, str] = {}  # that linecache does not have yet
        self._loop: Any = None
        self._drawn: list[Any] = []  # figures that this cell has shown
        builtins.display = self.display  # type: ignore[attr-defined]
        figures.install(self._show_figures)

    def run(self, code: bytes, count: int) -> None:
        """Run one cell; whatever it raises is told."""
        name = f"<cell {count}>"
        source = code.decode()
        raised: BaseException | None = None
        try:
            try:
                signal(SIGINT, default_int_handler)
                self._channel.send(wire.STARTED)
                self._keep(name, source)
                self._run(source, name)
            except BaseException as error:  # noqa: BLE001  # it is the code's own
                raised = error
                self._tell(error)
            self._end_fork(raised)
        except KeyboardInterrupt as error:  # while telling of another
            self._raised(error, "", "")
        finally:
            signal(SIGINT, SIG_IGN)

    def _keep(self, name: str, source: str) -> None:
        """Let tracebacks, warnings and `inspect` find the lines of a cell.

        `linecache` takes longer to load than most cells run: it waits until somebody
        may ask for lines.
        """
        self._sources[name] = source
        if "linecache" in _modules or any(word in source for word in _ASKING):
            self._publish()

    def _publish(self) -> None:
        try:
            import linecache  # noqa: PLC0415

            for name, source in self._sources.items():
                lines = [line + "\n" for line in source.split("\n")]
                linecache.cache[name] = (len(source), None, lines, name)
        except Exception:  # noqa: BLE001  # the code has broken its modules
            return
        self._sources = {}

    def _run(self, source: str, name: str) -> None:
        self._drawn = []
        self._names.pop("__warningregistry__", None)
        tree = self._compile(source, name, PyCF_ONLY_AST)
        body = tree.body
        last = body.pop() if body and type(body[-1]) is Expr else None
        codes = [self._compile(Module(body, []), name)] if body else []
        if last is not None:
            codes.append(self._compile(Expression(last.value), name, mode="eval"))
        value = self._evaluate(codes)
        if last is not None and value is not None:
            builtins._ = value  # type: ignore[attr-defined]
            if not source.rstrip().endswith(";"):
                self._show(bundle(value, self._complain), value, main=True)
        self._show_figures()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()

    def _compile(
        self, source: Any, name: str, flags: int = 0, *, mode: str = "exec"
    ) -> Any:
        made = _compile(source, name, mode, flags | self._flags, dont_inherit=True)
        if not flags:
            self._flags |= made.co_flags & _FUTURES
        return made

    def _evaluate(self, codes: list[CodeType]) -> Any:
        """Run *codes* and return the last value; if one awaits, all within the loop."""
        if any(code.co_flags & _COROUTINE for code in codes):
            return self._await(self._evaluate_awaiting(codes))
        value = None
        for code in codes:
            value = _eval(code, self._names)
        return value

    async def _evaluate_awaiting(self, codes: list[CodeType]) -> Any:
        value = None
        for code in codes:
            value = _eval(code, self._names)
            if code.co_flags & _COROUTINE:
                value = await value
        return value

    def _await(self, coroutine: Any) -> Any:
        """Run *coroutine* on the context's event loop, which stands still between."""
        import asyncio  # noqa: PLC0415

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()
            self._loop.run_until_complete(asyncio.wait([task]))
            if not task.cancelled():
                task.exception()
            raise

    def _end_fork(self, raised: BaseException | None) -> None:
        """End a fork that came to the end of the cell: one answer is enough."""
        if not self._channel.forked:
            return
        self._channel.flush()
        code = raised.code if isinstance(raised, SystemExit) else raised
        if code is None:
            _exit(0)
        _exit(code if type(code) is int else 1)

    # -- what it shows

    def display(self, *values: Any, raw: bool = False, **_: Any) -> None:
        """Show *values*, each in all its forms; *raw*: they are dicts of forms."""
        for value in values:
            made = of_forms(value) if raw else bundle(value, self._complain)
            self._show(made, value)

    def _show(self, made: Bundle, value: Any, *, main: bool = False) -> None:
        if self._channel.forked or not self._channel.running:
            return
        self._channel.show(made, main=main)
        self._drawn.append(value)

    def _show_figures(self) -> None:
        for figure in figures.open_figures():
            if not any(figure is each for each in self._drawn):
                self._show(bundle(figure, self._complain), figure)

    def _complain(self, text: str) -> None:
        self._channel.print(wire.STDERR, text.encode("utf-8", "backslashreplace"))

    # -- what it raises

    def _tell(self, error: BaseException) -> None:
        """Tell of *error*; `exit()` and `exit(0)` are only the end of the cell."""
        if isinstance(error, SystemExit) and not error.code:
            return
        value = said(error)  # first: it may hang, and what follows asks for it again
        try:
            import traceback  # noqa: PLC0415

            self._publish()
            shown = trimmed(error.__traceback__)
            text = "".join(traceback.format_exception(type(error), error, shown))
        except KeyboardInterrupt:
            raise
        except BaseException as failed:  # noqa: BLE001  # the exception's own doing
            text = f"its traceback could not be made: {type(failed).__name__}"
        if self._channel.forked:
            self._complain(text)
        else:
            self._raised(error, value, text)

    def _raised(self, error: BaseException, value: str, trace: str) -> None:
        told: dict[bytes, Value] = {
            b"name": encoded(type(error).__name__, 120),
            b"value": encoded(value, _VALUE),
            b"traceback": encoded(trace, _TRACE),
        }
        self._channel.send(wire.RAISED, pack(told))
