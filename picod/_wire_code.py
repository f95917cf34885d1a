"""Between messages about code and the values that the runner takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cubemesh.v1 import picod_pb2
from picod._code import (
    Code,
    CodeEnd,
    CodeFinished,
    CodeStarted,
    Fault,
    NewContext,
    Result,
    language,
)
from picod._types import Output
from picod._wire import output

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from picod._code import ContextInfo, Contexts, Import

__all__ = ["code", "context", "contexts", "new_context", "run_code_response"]

_NANOSECONDS = 10**9
_CAUSES: Final = {
    CodeEnd.ENDED: picod_pb2.CodeFinished.CAUSE_ENDED,
    CodeEnd.TIMEOUT: picod_pb2.CodeFinished.CAUSE_TIMEOUT,
    CodeEnd.DIED: picod_pb2.CodeFinished.CAUSE_DIED,
}


def code(request: picod_pb2.RunCodeRequest, environment: Mapping[str, str]) -> Code:
    """Return what *request* asks for, in a session with *environment*.

    Raises:
        InvalidRequestError: it cannot be run as written.
        LanguageNotAvailableError: no sandbox knows its language.
    """
    timeout = None
    if request.HasField("timeout"):
        timeout = request.timeout.seconds + request.timeout.nanos / _NANOSECONDS
    return Code(
        text=request.code,
        context=request.context_id,
        language=language(request.language),
        environment=environment,
        timeout=timeout,
    )


def new_context(
    request: picod_pb2.CreateContextRequest, environment: Mapping[str, str]
) -> NewContext:
    """Return the context that *request* asks for, in a session with *environment*.

    Raises:
        InvalidRequestError: there can be none like it.
        LanguageNotAvailableError: no sandbox knows its language.
    """
    return NewContext(
        language=language(request.language) or "python",
        cwd=request.working_directory,
        environment={**environment, **request.environment},
    )


def run_code_response(
    events: Iterable[CodeStarted | Output | Result | Fault | CodeFinished],
) -> picod_pb2.RunCodeResponse:
    """Return the message for *events*."""
    return picod_pb2.RunCodeResponse(events=map(_event, events))


def _event(
    event: CodeStarted | Output | Result | Fault | CodeFinished,
) -> picod_pb2.CodeEvent:
    match event:
        case Output():
            return picod_pb2.CodeEvent(output=output(event))
        case Result(main, data, cut):
            result = picod_pb2.Result(main=main, data=data, cut=cut)
            return picod_pb2.CodeEvent(result=result)
        case CodeStarted(name, count, notice):
            started = picod_pb2.CodeStarted(
                context_id=name, execution_count=count, notice=notice
            )
            return picod_pb2.CodeEvent(started=started)
        case Fault(name, value, trace):
            error = picod_pb2.CodeError(name=name, value=value, traceback=trace)
            return picod_pb2.CodeEvent(error=error)
        case CodeFinished():
            return picod_pb2.CodeEvent(finished=_finished(event))


def _finished(event: CodeFinished) -> picod_pb2.CodeFinished:
    message = picod_pb2.CodeFinished(
        cause=_CAUSES[event.cause],
        state_lost=event.state_lost,
        output_omitted=event.output_omitted,
        results_omitted=event.results_omitted,
    )
    message.duration.FromNanoseconds(round(event.duration * _NANOSECONDS))
    return message


def context(info: ContextInfo) -> picod_pb2.Context:
    """Return the message for *info*."""
    return picod_pb2.Context(
        context_id=info.name,
        language=info.language,
        working_directory=info.cwd,
        execution_count=info.count,
        busy=info.busy,
        waiting=info.waiting,
    )


def contexts(told: Contexts) -> picod_pb2.ListContextsResponse:
    """Return the message for all contexts and imports."""
    return picod_pb2.ListContextsResponse(
        contexts=map(context, told.contexts), imports=map(_import, told.imports)
    )


def _import(told: Import) -> picod_pb2.Import:
    message = picod_pb2.Import(
        name=told.name, memory_bytes=told.memory, error=told.error
    )
    message.duration.FromNanoseconds(round(told.duration * _NANOSECONDS))
    return message
