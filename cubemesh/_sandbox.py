"""A sandbox, for coroutines."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from cubemesh._commands import AsyncCommands
from cubemesh._contexts import AsyncContexts, run_code
from cubemesh._errors import SessionNotFoundError
from cubemesh._files import AsyncFiles
from cubemesh._order import order
from cubemesh._session import Mesh, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta
    from pathlib import Path

    from cubemesh._code import ContextInfo, Execution, Result
    from cubemesh._profile import Profile
    from cubemesh._values import SessionInfo


class AsyncSandbox:
    """One sandbox: a place where code runs that nobody trusts.

    ::

        async with await AsyncSandbox.create() as sandbox:
            print((await sandbox.run_code("6 * 7")).text)
            print((await sandbox.commands.run("echo hello")).stdout)

    Leaving the block ends a sandbox that was created here; one that was connected to
    lives on. Everywhere *profile* names the mesh: a `Profile`, a path with a slash, or
    the name of one; without it ``CUBEMESH_PROFILE``, else ``default``.
    """

    def __init__(self, session: Session, *, made_here: bool) -> None:
        self._session = session
        self._made_here = made_here
        self.commands = AsyncCommands(session)
        self.contexts = AsyncContexts(session)
        self.files = AsyncFiles(session)

    @classmethod
    async def create(  # noqa: PLR0913 - all are keywords
        cls,
        *,
        template: str = "",
        lifetime: float | timedelta | None = None,
        idle_timeout: float | timedelta | None = None,
        environment: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | str] | None = None,
        secrets: Mapping[str, bytes | str] | None = None,
        profile: Profile | Path | str | None = None,
    ) -> Self:
        """Make a sandbox; returns when commands can run.

        *lifetime* and *idle_timeout* are in seconds, by default the template's.
        *environment* holds for every command; the mesh neither stores nor logs it.
        *files*, content by path, are there from the start, with missing directories:
        at most 256 and 2 MiB, `files` takes more. *secrets*, value by name, are files
        that only the sandbox reads, in the folder named by ``CUBEMESH_SECRETS``, in
        memory: at most 64 and 256 KiB. Text is UTF-8. If one of them cannot be
        written, there is no sandbox.

        Raises:
            ConfigurationError: there is no usable profile.
            InvalidRequestError: these files or secrets cannot be taken.
            MeshError: the mesh refused or failed.

        """
        request = order(
            template=template,
            lifetime=lifetime,
            idle_timeout=idle_timeout,
            environment=environment,
            files=files,
            secrets=secrets,
        )
        mesh = Mesh.join(profile)
        try:
            info = await mesh.create(request)
        except BaseException:
            mesh.leave()
            raise
        return cls(Session(mesh, info.session_id), made_here=True)

    @classmethod
    async def connect(
        cls, session_id: str, *, profile: Profile | Path | str | None = None
    ) -> Self:
        """Return the sandbox of a session that is there already.

        Raises:
            ConfigurationError: there is no usable profile.
            SessionNotFoundError: there is no such session any more.
            PermissionDeniedError: it is not ours.

        """
        mesh = Mesh.join(profile)
        try:
            await mesh.get(session_id)
        except BaseException:
            mesh.leave()
            raise
        return cls(Session(mesh, session_id), made_here=False)

    @classmethod
    async def get(
        cls, session_id: str, *, profile: Profile | Path | str | None = None
    ) -> SessionInfo:
        """Tell about one session.

        Raises:
            SessionNotFoundError: there is no such session any more.

        """
        mesh = Mesh.join(profile)
        try:
            return await mesh.get(session_id)
        finally:
            mesh.leave()

    @classmethod
    async def list(
        cls, *, profile: Profile | Path | str | None = None
    ) -> tuple[SessionInfo, ...]:
        """Tell about our live sessions, oldest first."""
        mesh = Mesh.join(profile)
        try:
            return await mesh.list()
        finally:
            mesh.leave()

    @property
    def session_id(self) -> str:
        """The name of the session, for `connect`."""
        return self._session.session_id

    async def run_code(  # noqa: PLR0913 - all but the code are keywords
        self,
        code: str,
        *,
        context: ContextInfo | str | None = None,
        language: str = "python",
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - kept by the sandbox, not by us
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        on_result: Callable[[Result], object] | None = None,
    ) -> Execution:
        """Run *code* like a cell of a notebook and return what it did.

        What it defines is there for the next call on the same *context*; without one
        it runs in the context that *language* (``"python"``, ``"bash"``, ``"node"``)
        has for all such calls. Calls on one context take turns. *timeout* (seconds)
        bounds the call, its turn included: then the code is interrupted, and killed if
        it goes on; the sandbox's own limit caps it. The callbacks are called with each
        piece of text, and each `Result`, as it comes. Code that fails is an `Execution`
        with an ``error``.

        Raises:
            ContextNotFoundError: there is no such context.
            LanguageNotAvailableError: the sandbox has no such interpreter.
            OverloadedError: the context is busy, and stays it for too long.
            MeshError: the mesh refused or failed.

        """
        return await run_code(
            self._session,
            code,
            context=context,
            language=language,
            timeout=timeout,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            on_result=on_result,
        )

    async def info(self) -> SessionInfo:
        """Tell about this session."""
        return await self._session.mesh.get(self.session_id)

    async def extend(self, lifetime: float | timedelta) -> SessionInfo:
        """Move the end of this session to *lifetime* (seconds) from now.

        The template's longest lifetime since creation caps it.
        """
        return await self._session.mesh.extend(self.session_id, lifetime)

    async def kill(self) -> None:
        """End the sandbox with its processes and files; one that is over is fine."""
        with suppress(SessionNotFoundError):
            await self._session.mesh.delete(self.session_id)

    async def close(self) -> None:
        """Let go of the connection; the sandbox lives on until its time is up."""
        self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Shielded: a cancelled caller must not leave its sandbox behind.
        ending = asyncio.ensure_future(self._end())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending
            raise

    async def _end(self) -> None:
        try:
            if self._made_here and self._session.is_open:
                await self.kill()
        finally:
            await self.close()
