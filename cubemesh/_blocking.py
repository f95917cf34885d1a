"""The blocking face: `Sandbox` and its parts, made from their asynchronous twins.

One mechanism and no second implementation: `_blocking`, `_iterating` and `_making`
turn a coroutine method into a plain one with the same arguments and documentation. The
coroutines run on one event loop in a background thread; callbacks run in the thread of
the caller, and Ctrl-C there cancels the call before it is raised.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from cubemesh._commands import AsyncCommands
from cubemesh._contexts import AsyncContexts
from cubemesh._files import AsyncFiles
from cubemesh._portal import portal
from cubemesh._sandbox import AsyncSandbox

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
F = TypeVar("F", bound="_Face[Any]")


class _Face(Generic[A]):
    """What blocks stands before what awaits."""

    __slots__ = ("_twin",)

    def __init__(self, twin: A) -> None:
        self._twin = twin


def _blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[_Face[A], P], R]:
    """Return *method* of the twin as one that blocks until it is done."""

    @functools.wraps(method)
    def call(face: _Face[A], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return portal().run(method(face._twin, *args, **kwargs))  # noqa: SLF001 - ours

    return call


def _iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate[_Face[A], P], Generator[R, None, None]]:
    """Return *method* of the twin as a plain generator."""

    @functools.wraps(method)
    def call(
        face: _Face[A], /, *args: P.args, **kwargs: P.kwargs
    ) -> Generator[R, None, None]:
        items = method(face._twin, *args, **kwargs)  # noqa: SLF001 - ours
        try:
            while True:
                try:
                    yield portal().run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            portal().run(items.aclose())

    return call


class _making(Generic[P]):  # noqa: N801 - reads as the decorator it is
    """A class method of the twin that makes one, as one that makes the face of it."""

    def __init__(self, method: Callable[P, Coroutine[Any, Any, Any]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, face: object, owner: type[F]) -> Callable[P, F]:
        @functools.wraps(self._method)
        def call(*args: P.args, **kwargs: P.kwargs) -> F:
            return owner(portal().run(self._method(*args, **kwargs)))

        signature = inspect.signature(self._method)
        shown = signature.replace(return_annotation=owner.__name__)
        call.__signature__ = shown  # type: ignore[attr-defined]
        return call


def _telling(method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Return a class method of the twin as a static one that blocks."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return portal().run(method(*args, **kwargs))

    return staticmethod(call)


async def _next(items: AsyncGenerator[R, None]) -> R:
    return await anext(items)


class Commands(_Face[AsyncCommands]):
    """The commands of one sandbox; made by it, as ``sandbox.commands``."""

    run = _blocking(AsyncCommands.run)
    stream = _iterating(AsyncCommands.stream)


class Contexts(_Face[AsyncContexts]):
    """The contexts of one sandbox; made by it, as ``sandbox.contexts``.

    A context keeps its state: what one call defines, the next one has.
    """

    create = _blocking(AsyncContexts.create)
    delete = _blocking(AsyncContexts.delete)
    imports = _blocking(AsyncContexts.imports)
    list = _blocking(AsyncContexts.list)
    restart = _blocking(AsyncContexts.restart)


class Files(_Face[AsyncFiles]):
    """The files of one sandbox; made by it, as ``sandbox.files``.

    Relative paths start at the sandbox's workspace. All methods raise
    `SandboxFileNotFoundError`, `InvalidPathError`, or another `MeshError`.
    """

    append = _blocking(AsyncFiles.append)
    download = _blocking(AsyncFiles.download)
    exists = _blocking(AsyncFiles.exists)
    list = _blocking(AsyncFiles.list)
    mkdir = _blocking(AsyncFiles.mkdir)
    move = _blocking(AsyncFiles.move)
    read = _blocking(AsyncFiles.read)
    read_text = _blocking(AsyncFiles.read_text)
    remove = _blocking(AsyncFiles.remove)
    stat = _blocking(AsyncFiles.stat)
    stream = _iterating(AsyncFiles.stream)
    upload = _blocking(AsyncFiles.upload)
    write = _blocking(AsyncFiles.write)


class Sandbox(_Face[AsyncSandbox]):
    """One sandbox: a place where code runs that nobody trusts.

    ::

        with Sandbox.create() as sandbox:
            print(sandbox.run_code("6 * 7").text)
            print(sandbox.commands.run("echo hello").stdout)

    Leaving the block ends a sandbox that was created here; one that was connected to
    lives on. Everywhere *profile* names the mesh: a `Profile`, a path with a slash, or
    the name of one; without it ``CUBEMESH_PROFILE``, else ``default``.
    """

    create = _making(AsyncSandbox.create)
    connect = _making(AsyncSandbox.connect)
    get = _telling(AsyncSandbox.get)
    list = _telling(AsyncSandbox.list)
    run_code = _blocking(AsyncSandbox.run_code)
    info = _blocking(AsyncSandbox.info)
    extend = _blocking(AsyncSandbox.extend)
    kill = _blocking(AsyncSandbox.kill)
    close = _blocking(AsyncSandbox.close)
    __exit__ = _blocking(AsyncSandbox.__aexit__)

    @property
    def session_id(self) -> str:
        """The name of the session, for `connect`."""
        return self._twin.session_id

    @property
    def commands(self) -> Commands:
        """Run commands."""
        return Commands(self._twin.commands)

    @property
    def contexts(self) -> Contexts:
        """Make and end contexts for `run_code`."""
        return Contexts(self._twin.contexts)

    @property
    def files(self) -> Files:
        """Read and write files."""
        return Files(self._twin.files)

    def __enter__(self) -> Self:
        return self
