"""Code in a sandbox, and what it does, as values."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cubemesh.v1 import picod_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT = picod_pb2.CodeFinished.CAUSE_TIMEOUT


@dataclass(frozen=True, slots=True)
class Result:
    """A value that the code showed, in one or several forms.

    ``main`` says that it is the value of the last expression. ``data`` holds the forms
    by media type; the common ones have properties. ``cut`` tells by media type what of
    a form was cut or left out.
    """

    main: bool
    data: Mapping[str, bytes] = field(repr=False)
    cut: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str | None:
        """What ``repr`` says of it."""
        return self._text("text/plain")

    @property
    def html(self) -> str | None:
        """The value as HTML, e.g. a table."""
        return self._text("text/html")

    @property
    def markdown(self) -> str | None:
        """The value as Markdown."""
        return self._text("text/markdown")

    @property
    def latex(self) -> str | None:
        """The value as LaTeX."""
        return self._text("text/latex")

    @property
    def svg(self) -> str | None:
        """The value as a drawing."""
        return self._text("image/svg+xml")

    @property
    def png(self) -> bytes | None:
        """The value as a picture, e.g. a figure of matplotlib."""
        return self.data.get("image/png")

    @property
    def jpeg(self) -> bytes | None:
        """The value as a photograph."""
        return self.data.get("image/jpeg")

    @property
    def json(self) -> Any:
        """The value as JSON, parsed; of a table: columns, index and data."""
        told = self.data.get("application/json")
        return None if told is None else json.loads(told)

    def _text(self, name: str) -> str | None:
        told = self.data.get(name)
        return None if told is None else told.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """How the code failed.

    ``name`` is the exception's class, ``ExitStatus`` of a shell, or
    ``InterpreterDied``; ``traceback`` is as the interpreter prints it.
    """

    name: str
    value: str
    traceback: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return the traceback, or what there is instead."""
        return self.traceback or f"{self.name}: {self.value}"


@dataclass(frozen=True, slots=True)
class Logs:
    """What the code wrote."""

    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Execution:
    """Code that has run.

    ``text`` is the value of the last expression as text, ``results`` all that it
    showed. ``error`` is ``None`` if it came to its end. ``notice`` is what to know of
    the context, e.g. that its interpreter is a new one; ``state_lost`` says that the
    interpreter is gone after this call. ``duration`` is in seconds; ``output_omitted``
    counts the bytes, ``results_omitted`` the results beyond the sandbox's limit.
    """

    text: str | None
    results: tuple[Result, ...]
    logs: Logs
    error: ExecutionError | None
    context_id: str
    execution_count: int
    duration: float
    timed_out: bool = False
    state_lost: bool = False
    notice: str = ""
    output_omitted: int = 0
    results_omitted: int = 0


@dataclass(frozen=True, slots=True)
class ContextInfo:
    """One context: an interpreter that keeps its state from call to call.

    ``execution_count`` counts the calls of its interpreter, ``waiting`` those that wait
    for their turn.
    """

    context_id: str
    language: str
    working_directory: str
    execution_count: int
    busy: bool
    waiting: int


@dataclass(frozen=True, slots=True)
class ImportInfo:
    """A module that contexts find imported; ``error`` is empty unless it failed.

    ``duration`` is in seconds, ``memory`` what it adds to the sandbox, in bytes.
    """

    name: str
    duration: float
    memory: int
    error: str


def result_from(wire: picod_pb2.Result) -> Result:
    """Return *wire* as a value."""
    return Result(wire.main, dict(wire.data), dict(wire.cut))


def error_from(wire: picod_pb2.CodeError) -> ExecutionError:
    """Return *wire* as a value."""
    return ExecutionError(wire.name, wire.value, wire.traceback)


def context_from(wire: picod_pb2.Context) -> ContextInfo:
    """Return *wire* as a value."""
    return ContextInfo(
        context_id=wire.context_id,
        language=wire.language,
        working_directory=os.fsdecode(wire.working_directory),
        execution_count=wire.execution_count,
        busy=wire.busy,
        waiting=wire.waiting,
    )


def import_from(wire: picod_pb2.Import) -> ImportInfo:
    """Return *wire* as a value."""
    seconds = wire.duration.ToNanoseconds() / 1e9
    return ImportInfo(wire.name, seconds, wire.memory_bytes, wire.error)


class Told:
    """Gathers what one call tells until it is an `Execution`."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._results: list[Result] = []
        self._error: ExecutionError | None = None
        self._started = picod_pb2.CodeStarted()
        self._finished: picod_pb2.CodeFinished | None = None

    def take(self, event: picod_pb2.CodeEvent) -> Result | None:
        """Note *event*, which is no output; return the result that it brings."""
        match event.WhichOneof("event"):
            case "started":
                self._started = event.started
            case "result":
                self._results.append(result_from(event.result))
                return self._results[-1]
            case "error":
                self._error = error_from(event.error)
            case "finished":
                self._finished = event.finished
        return None

    def execution(self) -> Execution | None:
        """Return all of it; ``None``: the end was not told."""
        finished = self._finished
        if finished is None:
            return None
        main = next((each for each in self._results if each.main), None)
        return Execution(
            text=None if main is None else main.text,
            results=tuple(self._results),
            logs=Logs(*("".join(each) for each in self.pieces.values())),
            error=self._error,
            context_id=self._started.context_id,
            execution_count=self._started.execution_count,
            duration=finished.duration.ToNanoseconds() / 1e9,
            timed_out=finished.cause == _TIMEOUT,
            state_lost=finished.state_lost,
            notice=self._started.notice,
            output_omitted=finished.output_omitted,
            results_omitted=finished.results_omitted,
        )
