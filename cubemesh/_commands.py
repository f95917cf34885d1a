"""Commands in a sandbox."""

from __future__ import annotations

import inspect
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from cubemesh._calls import GRACE, LONGEST, answers, ending
from cubemesh._errors import CommandFailedError, InternalError
from cubemesh._paths import to_bytes
from cubemesh._times import to_duration
from cubemesh._values import (
    CommandExited,
    CommandOutput,
    CommandResult,
    Text,
    event_from,
)
from cubemesh.v1.picod_pb2 import ExecuteRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from datetime import timedelta

    from cubemesh._paths import SandboxPath
    from cubemesh._session import Session
    from cubemesh._values import CommandEvent

T = TypeVar("T")

# Set by the blocking face: runs a callback where its user wrote it.
ELSEWHERE: ContextVar[Callable[[Callable[[], object]], Awaitable[object]] | None] = (
    ContextVar("ELSEWHERE", default=None)
)


class AsyncCommands:
    """The commands of one sandbox; made by it, as ``sandbox.commands``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def run(  # noqa: PLR0913 - all but the command are keywords
        self,
        command: str | Sequence[str],
        *,
        check: bool = False,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - kept by the sandbox, not by us
        cwd: SandboxPath = "",
        env: Mapping[str, str] | None = None,
        stdin: bytes | str = b"",
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> CommandResult:
        """Run *command* to its end and return what it wrote.

        Text goes to ``/bin/sh -c``, a sequence is run as it is. *timeout* (seconds)
        kills it with all its descendants; the sandbox's own limit caps it. *stdin* is
        all that it reads, at most 2 MiB. *on_stdout* and *on_stderr* are called with
        each piece of text as it comes. A command that fails is a result, too.

        Raises:
            CommandFailedError: with *check*, it did not end with status 0.
            CommandNotFoundError: there is no such program.
            MeshError: the mesh refused or failed.

        """
        pieces: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        heard = {"stdout": Listener(on_stdout), "stderr": Listener(on_stderr)}
        exited: CommandExited | None = None
        events = self.stream(command, timeout=timeout, cwd=cwd, env=env, stdin=stdin)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, CommandOutput):
                    pieces[event.stream].append(event.data)
                    await heard[event.stream].hear(event.data)
                elif isinstance(event, CommandExited):
                    exited = event
        for listener in heard.values():
            await listener.hear(b"", final=True)
        result = _result(pieces, exited)
        if check and result.exit_code:
            raise CommandFailedError(result)
        return result

    async def stream(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - kept by the sandbox, not by us
        cwd: SandboxPath = "",
        env: Mapping[str, str] | None = None,
        stdin: bytes | str = b"",
    ) -> AsyncGenerator[CommandEvent, None]:
        """Run *command* and yield what it does, as it does it.

        One `CommandStarted`, then `CommandOutput` in the order written, then one
        `CommandExited`. Closing the iterator before its end kills the command. The
        arguments are those of `run`.

        Raises:
            CommandNotFoundError: there is no such program.
            MeshError: the mesh refused or failed.

        """
        request = ExecuteRequest(
            argv=["/bin/sh", "-c", command] if isinstance(command, str) else command,
            environment=env or {},
            working_directory=to_bytes(cwd),
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
        )
        deadline = LONGEST
        if timeout is not None:
            request.timeout.CopyFrom(to_duration(timeout))
            deadline = request.timeout.ToNanoseconds() / 1e9 + GRACE
        async with self._session.line() as line:
            call = line.picod.Execute(
                request, timeout=deadline, metadata=self._session.metadata
            )
            async with ending(call), aclosing(answers(call)) as messages:
                async for message in messages:
                    for told in message.events:
                        if (event := event_from(told)) is not None:
                            yield event


class Listener:
    """A callback that is told text, however the bytes were cut.

    *pieces* gathers the same text.
    """

    def __init__(
        self,
        callback: Callable[[str], object] | None,
        pieces: list[str] | None = None,
    ) -> None:
        self._callback, self._pieces = callback, pieces
        self._text = Text()

    async def hear(self, data: bytes, *, final: bool = False) -> None:
        """Take *data*; *final*: nothing comes after it."""
        if self._callback is None and self._pieces is None:
            return
        text = self._text(data, final=final)
        if text and self._pieces is not None:
            self._pieces.append(text)
        if text:
            await tell(self._callback, text)


async def tell(callback: Callable[[T], object] | None, value: T) -> None:
    """Call *callback* with *value*, where its user wrote it."""
    if callback is None:
        return
    elsewhere = ELSEWHERE.get()
    if elsewhere is not None:
        await elsewhere(lambda: callback(value))
        return
    answer = callback(value)
    if inspect.isawaitable(answer):
        await answer


def _result(
    pieces: Mapping[str, list[bytes]], exited: CommandExited | None
) -> CommandResult:
    if exited is None:
        message = "the stream of the command ended before the command"
        raise InternalError(message)
    stdout, stderr = b"".join(pieces["stdout"]), b"".join(pieces["stderr"])
    return CommandResult(
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
        exit_code=exited.exit_code,
        signal=exited.signal,
        timed_out=exited.timed_out,
        duration=exited.duration,
        output_limit_reached=exited.output_limit_reached,
        memory_limit_reached=exited.memory_limit_reached,
        stdout_bytes=stdout,
        stderr_bytes=stderr,
    )
