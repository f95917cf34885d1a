r"""Run code nobody trusts in sandboxes.

    from cubemesh import Sandbox

    with Sandbox.create() as sandbox:
        print(sandbox.run_code("6 * 7").text)
        print(sandbox.commands.run("echo hello; ls -l").stdout)
        sandbox.files.write("data.csv", b"a,b\n1,2\n")

`AsyncSandbox` is the same for coroutines. Errors: `CubeMeshError` and below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubemesh._blocking import Commands, Contexts, Files, Sandbox
    from cubemesh._code import (
        ContextInfo,
        Execution,
        ExecutionError,
        ImportInfo,
        Logs,
        Result,
    )
    from cubemesh._commands import AsyncCommands
    from cubemesh._contexts import AsyncContexts
    from cubemesh._errors import (
        CommandFailedError,
        CommandNotFoundError,
        ConfigurationError,
        ConflictError,
        ContextNotFoundError,
        CubeMeshError,
        DeadlineExceededError,
        ExhaustedError,
        InternalError,
        InvalidPathError,
        InvalidRequestError,
        LanguageNotAvailableError,
        MeshError,
        NotFoundError,
        OverloadedError,
        PermissionDeniedError,
        SandboxFileExistsError,
        SandboxFileNotFoundError,
        SessionExpiredError,
        SessionNotFoundError,
        TemplateNotFoundError,
        TransferError,
        UnauthenticatedError,
        UnavailableError,
        UnsupportedError,
    )
    from cubemesh._files import AsyncFiles
    from cubemesh._profile import Profile
    from cubemesh._sandbox import AsyncSandbox
    from cubemesh._values import (
        CommandEvent,
        CommandExited,
        CommandOutput,
        CommandResult,
        CommandStarted,
        FileInfo,
        SessionInfo,
    )

__all__ = [
    "AsyncCommands",
    "AsyncContexts",
    "AsyncFiles",
    "AsyncSandbox",
    "CommandEvent",
    "CommandExited",
    "CommandFailedError",
    "CommandNotFoundError",
    "CommandOutput",
    "CommandResult",
    "CommandStarted",
    "Commands",
    "ConfigurationError",
    "ConflictError",
    "ContextInfo",
    "ContextNotFoundError",
    "Contexts",
    "CubeMeshError",
    "DeadlineExceededError",
    "Execution",
    "ExecutionError",
    "ExhaustedError",
    "FileInfo",
    "Files",
    "ImportInfo",
    "InternalError",
    "InvalidPathError",
    "InvalidRequestError",
    "LanguageNotAvailableError",
    "Logs",
    "MeshError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "Profile",
    "Result",
    "Sandbox",
    "SandboxFileExistsError",
    "SandboxFileNotFoundError",
    "SessionExpiredError",
    "SessionInfo",
    "SessionNotFoundError",
    "TemplateNotFoundError",
    "TransferError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
]

# Loaded at first use: gRPC alone takes longer than the rest of a short script.
_ROOMS = {
    "AsyncCommands": "_commands",
    "AsyncContexts": "_contexts",
    "AsyncFiles": "_files",
    "AsyncSandbox": "_sandbox",
    "CommandEvent": "_values",
    "CommandExited": "_values",
    "CommandOutput": "_values",
    "CommandResult": "_values",
    "CommandStarted": "_values",
    "Commands": "_blocking",
    "ContextInfo": "_code",
    "Contexts": "_blocking",
    "Execution": "_code",
    "ExecutionError": "_code",
    "FileInfo": "_values",
    "Files": "_blocking",
    "ImportInfo": "_code",
    "Logs": "_code",
    "Profile": "_profile",
    "Result": "_code",
    "Sandbox": "_blocking",
    "SessionInfo": "_values",
}


if not TYPE_CHECKING:  # a type checker shall refuse names that are not there

    def __getattr__(name: str) -> object:
        if name not in __all__:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        room = import_module(f"{__name__}.{_ROOMS.get(name, '_errors')}")
        value: object = getattr(room, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
