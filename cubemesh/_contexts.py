"""Contexts in a sandbox, and running code in them."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from cubemesh._calls import GRACE, LONGEST, answers, ending
from cubemesh._code import Told, context_from, import_from
from cubemesh._commands import Listener, tell
from cubemesh._errors import InternalError
from cubemesh._paths import to_bytes
from cubemesh._times import to_duration
from cubemesh.v1 import picod_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import timedelta

    from cubemesh._code import ContextInfo, Execution, ImportInfo, Result
    from cubemesh._paths import SandboxPath
    from cubemesh._session import Session

_STDERR = picod_pb2.Output.STREAM_STDERR


class AsyncContexts:
    """The contexts of one sandbox; made by it, as ``sandbox.contexts``.

    A context keeps its state: what one call defines, the next one has.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def create(
        self,
        language: str = "python",
        *,
        cwd: SandboxPath = "",
        env: Mapping[str, str] | None = None,
    ) -> ContextInfo:
        """Make a context; its interpreter runs.

        *language* is ``"python"``, ``"bash"`` or ``"node"``; *cwd* is where it starts,
        by default the workspace; *env* is added to the sandbox's environment.

        Raises:
            LanguageNotAvailableError: the sandbox has no such interpreter.
            MeshError: the mesh refused or failed.

        """
        request = picod_pb2.CreateContextRequest(
            language=language, working_directory=to_bytes(cwd), environment=env or {}
        )
        answer = await self._session.ask(lambda line: line.picod.CreateContext, request)
        return context_from(answer.context)

    async def list(self) -> tuple[ContextInfo, ...]:
        """Tell of all contexts, oldest first."""
        return tuple(map(context_from, (await self._list()).contexts))

    async def imports(self) -> tuple[ImportInfo, ...]:
        """Tell which modules contexts find imported, and what that took."""
        return tuple(map(import_from, (await self._list()).imports))

    async def restart(self, context: ContextInfo | str) -> ContextInfo:
        """Give a context a new interpreter; all processes of the old one are killed.

        Raises:
            ContextNotFoundError: there is no such context.
            MeshError: the mesh refused or failed.

        """
        request = picod_pb2.RestartContextRequest(context_id=name_of(context))
        answer = await self._session.ask(
            lambda line: line.picod.RestartContext, request
        )
        return context_from(answer.context)

    async def delete(self, context: ContextInfo | str) -> None:
        """End a context with all its processes.

        Raises:
            ContextNotFoundError: there is no such context.
            MeshError: the mesh refused or failed.

        """
        request = picod_pb2.DeleteContextRequest(context_id=name_of(context))
        await self._session.ask(lambda line: line.picod.DeleteContext, request)

    async def _list(self) -> picod_pb2.ListContextsResponse:
        request = picod_pb2.ListContextsRequest()
        answer: picod_pb2.ListContextsResponse = await self._session.ask(
            lambda line: line.picod.ListContexts, request
        )
        return answer


async def _events(
    messages: AsyncIterator[picod_pb2.RunCodeResponse],
) -> AsyncIterator[picod_pb2.CodeEvent]:
    async for message in messages:
        for event in message.events:
            yield event


def name_of(context: ContextInfo | str) -> str:
    """Return the id of *context*."""
    return context if isinstance(context, str) else context.context_id


async def run_code(  # noqa: PLR0913 - one per option of `Sandbox.run_code`
    session: Session,
    code: str,
    *,
    context: ContextInfo | str | None,
    language: str,
    timeout: float | timedelta | None,  # noqa: ASYNC109 - kept by the sandbox, not by us
    on_stdout: Callable[[str], object] | None,
    on_stderr: Callable[[str], object] | None,
    on_result: Callable[[Result], object] | None,
) -> Execution:
    """Run *code* in a sandbox of *session*; see `AsyncSandbox.run_code`."""
    request = picod_pb2.RunCodeRequest(code=code, language=language)
    if context is not None:
        request = picod_pb2.RunCodeRequest(code=code, context_id=name_of(context))
    deadline = LONGEST
    if timeout is not None:
        request.timeout.CopyFrom(to_duration(timeout))
        deadline = request.timeout.ToNanoseconds() / 1e9 + GRACE
    told = Told()
    heard = {
        name: Listener(callback, told.pieces[name])
        for name, callback in (("stdout", on_stdout), ("stderr", on_stderr))
    }
    async with session.line() as line:
        call = line.picod.RunCode(request, timeout=deadline, metadata=session.metadata)
        async with ending(call), aclosing(answers(call)) as messages:
            async for event in _events(messages):
                if event.HasField("output"):
                    name = "stderr" if event.output.stream == _STDERR else "stdout"
                    await heard[name].hear(event.output.data)
                elif (result := told.take(event)) is not None:
                    await tell(on_result, result)
    for listener in heard.values():
        await listener.hear(b"", final=True)
    execution = told.execution()
    if execution is None:
        message = "the stream of the code ended before the code"
        raise InternalError(message)
    return execution
