"""What can go wrong, as classes.

Catch wide or narrow::

    CubeMeshError
    ├── ConfigurationError              this machine: profile, files, environment
    ├── CommandFailedError              run(check=True) and the command failed
    └── MeshError                       the mesh refused or failed; has a `reason`
        ├── InvalidRequestError
        │   └── InvalidPathError
        ├── NotFoundError
        │   ├── CommandNotFoundError
        │   ├── ContextNotFoundError
        │   ├── LanguageNotAvailableError
        │   ├── SandboxFileNotFoundError
        │   ├── SessionNotFoundError
        │   │   └── SessionExpiredError
        │   └── TemplateNotFoundError
        ├── ConflictError
        │   └── SandboxFileExistsError
        ├── PermissionDeniedError
        ├── UnauthenticatedError
        ├── ExhaustedError
        │   └── OverloadedError         try again after `retry_after` seconds
        ├── TransferError               an upload did not arrive whole
        ├── UnavailableError            try again
        ├── DeadlineExceededError
        ├── UnsupportedError
        └── InternalError
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cubemesh._values import CommandResult


class CubeMeshError(Exception):
    """The root of all errors of this package.

    ``hint`` says what to do about it; empty when there is nothing to say.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigurationError(CubeMeshError):
    """The machine is not set up for the call: no profile, unreadable files."""


class CommandFailedError(CubeMeshError):
    """A command run with ``check=True`` did not end with 0; see ``result``."""

    def __init__(self, result: CommandResult) -> None:
        last = result.stderr.strip().rpartition("\n")[2]
        cause = "ran out of time" if result.timed_out else "failed"
        if result.memory_limit_reached:
            cause = "ran out of memory"
        said = f": {last}" if last else ""
        super().__init__(f"the command {cause} with status {result.exit_code}{said}")
        self.result = result


class MeshError(CubeMeshError):
    """The mesh refused or failed a call.

    ``reason`` is a stable word of docs/reference/errors.md (empty when the answer did
    not come from the mesh), ``metadata`` what it tells beside it, ``code`` the name of
    the gRPC status, ``retry_after`` the seconds after which to try again, if told.
    """

    def __init__(  # noqa: PLR0913 - all but the message are keywords
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "UNKNOWN",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.code = code
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class InvalidRequestError(MeshError):
    """The request itself is wrong; the same one will never succeed."""


class InvalidPathError(InvalidRequestError):
    """The path cannot be used for this; say, a directory where a file is meant."""


class NotFoundError(MeshError):
    """Something the request names is not there."""


class CommandNotFoundError(NotFoundError):
    """No such program in the sandbox."""


class ContextNotFoundError(NotFoundError):
    """No such context in the sandbox."""


class LanguageNotAvailableError(NotFoundError):
    """The sandbox has no interpreter of that language."""


class SandboxFileNotFoundError(NotFoundError):
    """No such file or directory in the sandbox."""


class SessionNotFoundError(NotFoundError):
    """No such session."""


class SessionExpiredError(SessionNotFoundError):
    """The session is over: its time was up, it was idle, or somebody ended it."""


class TemplateNotFoundError(NotFoundError):
    """No such template."""


class ConflictError(MeshError):
    """What is there already does not allow it."""


class SandboxFileExistsError(ConflictError):
    """A file is there already."""


class PermissionDeniedError(MeshError):
    """The caller is known and may not do this."""


class UnauthenticatedError(MeshError):
    """The caller did not prove who it is."""


class ExhaustedError(MeshError):
    """A limit is reached: space, processes, the size of a file."""


class OverloadedError(ExhaustedError):
    """The mesh is full for the moment; see ``retry_after``."""


class TransferError(MeshError):
    """An upload did not arrive whole; nothing of it is kept."""


class UnavailableError(MeshError):
    """The mesh or the sandbox cannot be reached."""


class DeadlineExceededError(MeshError):
    """The answer did not come in time."""


class UnsupportedError(MeshError):
    """The mesh does not serve the call."""


class InternalError(MeshError):
    """A fault inside the mesh; its logs tell more."""


# Each reason of docs/reference/errors.md; a test holds the two together.
BY_REASON: Mapping[str, type[MeshError]] = MappingProxyType(
    {
        "ALREADY_BOUND": ConflictError,
        "BINDING_REFUSED": InvalidRequestError,
        "BINDING_TOO_LARGE": InvalidRequestError,
        "COMMAND_NOT_EXECUTABLE": ConflictError,
        "COMMAND_NOT_FOUND": CommandNotFoundError,
        "CONTEXT_BUSY": OverloadedError,
        "CONTEXT_LIMIT": ExhaustedError,
        "CONTEXT_NOT_FOUND": ContextNotFoundError,
        "DENIED": PermissionDeniedError,
        "DIRECTORY_NOT_EMPTY": ConflictError,
        "FILE_EXISTS": SandboxFileExistsError,
        "FILE_NOT_FOUND": SandboxFileNotFoundError,
        "FILE_PERMISSION": PermissionDeniedError,
        "FILE_TOO_LARGE": ExhaustedError,
        "IDENTITY_NOT_HANDED": ConflictError,
        "IDENTITY_REFUSED": InvalidRequestError,
        "IDENTITY_UNAVAILABLE": UnavailableError,
        "INTERNAL": InternalError,
        "INVALID_COMMAND": InvalidRequestError,
        "INVALID_PATH": InvalidPathError,
        "INVALID_REQUEST": InvalidRequestError,
        "IS_A_DIRECTORY": InvalidPathError,
        "LANGUAGE_NOT_AVAILABLE": LanguageNotAvailableError,
        "METHOD_UNKNOWN": UnsupportedError,
        "NOT_A_DIRECTORY": InvalidPathError,
        "NOT_A_REGULAR_FILE": InvalidPathError,
        "NOT_BOUND": ConflictError,
        "NOT_YET_SERVED": UnsupportedError,
        "NO_SPACE": ExhaustedError,
        "PATH_OUTSIDE_WORKSPACE": InvalidPathError,
        "POOL_EXHAUSTED": OverloadedError,
        "PROCESS_LIMIT": ExhaustedError,
        "RUNNER_FAULT": UnavailableError,
        "SANDBOX_START_FAILED": UnavailableError,
        "SANDBOX_TIMEOUT": DeadlineExceededError,
        "SANDBOX_UNREACHABLE": UnavailableError,
        "SECRETS_NOT_ISOLATED": InvalidRequestError,
        "SERVER_OVERLOADED": OverloadedError,
        "SESSION_EXPIRED": SessionExpiredError,
        "SESSION_MISMATCH": ConflictError,
        "SESSION_NOT_FOUND": SessionNotFoundError,
        "SESSION_NOT_YOURS": PermissionDeniedError,
        "SESSION_REQUIRED": InvalidRequestError,
        "SHUTTING_DOWN": UnavailableError,
        "SIZE_MISMATCH": TransferError,
        "TEMPLATE_NOT_FOUND": TemplateNotFoundError,
        "UNAUTHENTICATED": UnauthenticatedError,
        "UPLOAD_NOT_COMMITTED": TransferError,
        "WORKLOADMANAGER_UNREACHABLE": UnavailableError,
    }
)

# What to do, where the message alone does not tell.
HINTS: Mapping[str, str] = MappingProxyType(
    {
        "BINDING_TOO_LARGE": "make the sandbox first, then write the rest by "
        "sandbox.files.write, or cubemesh cp",
        "SECRETS_NOT_ISOLATED": "choose a template with isolation bwrap or gvisor",
    }
)

# For answers without a reason of ours: from gRPC itself, or a newer mesh.
BY_CODE: Mapping[str, type[MeshError]] = MappingProxyType(
    {
        "ABORTED": TransferError,
        "ALREADY_EXISTS": ConflictError,
        "DEADLINE_EXCEEDED": DeadlineExceededError,
        "FAILED_PRECONDITION": ConflictError,
        "INTERNAL": InternalError,
        "INVALID_ARGUMENT": InvalidRequestError,
        "NOT_FOUND": NotFoundError,
        "PERMISSION_DENIED": PermissionDeniedError,
        "RESOURCE_EXHAUSTED": ExhaustedError,
        "UNAUTHENTICATED": UnauthenticatedError,
        "UNAVAILABLE": UnavailableError,
        "UNIMPLEMENTED": UnsupportedError,
    }
)
