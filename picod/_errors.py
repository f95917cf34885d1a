"""Everything PicoD refuses or fails at.

    PicoDError
    ├── InvalidRequestError
    ├── NotBoundError, AlreadyBoundError, ShuttingDownError
    ├── IdentityRefusedError, IdentityNotHandedError
    ├── SecretsNotIsolatedError
    ├── CommandError
    │   ├── InvalidCommandError
    │   ├── CommandNotFoundError
    │   ├── CommandNotExecutableError
    │   └── ProcessLimitError
    ├── CodeError
    │   ├── ContextNotFoundError
    │   ├── ContextBusyError
    │   ├── ContextLimitError
    │   └── LanguageNotAvailableError
    ├── FileError
    │   ├── InvalidPathError
    │   ├── PathOutsideWorkspaceError
    │   ├── MissingFileError
    │   ├── FileExistsInSandboxError
    │   ├── NotARegularFileError
    │   ├── NotAFolderError
    │   ├── IsAFolderError
    │   ├── FolderNotEmptyError
    │   ├── FilePermissionError
    │   ├── FileTooLargeError
    │   ├── NoSpaceError
    │   ├── SizeMismatchError
    │   └── UploadNotCommittedError
    ├── RunnerFaultError
    └── IsolationError

Each class has one `reason`, listed in docs/reference/errors.md and never renamed.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ERRORS_BY_REASON",
    "AlreadyBoundError",
    "CodeError",
    "CommandError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "ContextBusyError",
    "ContextLimitError",
    "ContextNotFoundError",
    "FileError",
    "FileExistsInSandboxError",
    "FilePermissionError",
    "FileTooLargeError",
    "FolderNotEmptyError",
    "IdentityNotHandedError",
    "IdentityRefusedError",
    "InvalidCommandError",
    "InvalidPathError",
    "InvalidRequestError",
    "IsAFolderError",
    "IsolationError",
    "LanguageNotAvailableError",
    "MissingFileError",
    "NoSpaceError",
    "NotAFolderError",
    "NotARegularFileError",
    "NotBoundError",
    "PathOutsideWorkspaceError",
    "PicoDError",
    "ProcessLimitError",
    "RunnerFaultError",
    "SecretsNotIsolatedError",
    "ShuttingDownError",
    "SizeMismatchError",
    "UploadNotCommittedError",
]


class PicoDError(Exception):
    """Base of all; its text may be shown to the caller."""

    reason: ClassVar[str] = "INTERNAL"
    text: ClassVar[str] = "internal error"

    def __init__(self, text: str = "") -> None:
        super().__init__(text or self.text)


class InvalidRequestError(PicoDError):
    """The request cannot be meant as it stands."""

    reason = "INVALID_REQUEST"
    text = "the request is malformed"


class NotBoundError(PicoDError):
    """The sandbox has no session yet."""

    reason = "NOT_BOUND"
    text = "the sandbox is not bound to a session"


class AlreadyBoundError(PicoDError):
    """The sandbox has its session already."""

    reason = "ALREADY_BOUND"
    text = "the sandbox is bound already"


class ShuttingDownError(PicoDError):
    """The sandbox ends."""

    reason = "SHUTTING_DOWN"
    text = "the sandbox is shutting down"


class IdentityRefusedError(PicoDError):
    """The identity that was handed over is not taken, for *fault*, one stable word."""

    reason = "IDENTITY_REFUSED"
    text = "the identity is not usable"

    def __init__(self, text: str = "", *, fault: str = "") -> None:
        super().__init__(text)
        self.metadata = {"fault": fault}


class IdentityNotHandedError(PicoDError):
    """Our identity is from elsewhere, or we have none at all."""

    reason = "IDENTITY_NOT_HANDED"
    text = "this PicoD was not started with --identity-fd"


class SecretsNotIsolatedError(PicoDError):
    """The sandbox has no place that is its own, and so none for secrets."""

    reason = "SECRETS_NOT_ISOLATED"
    text = "isolation level none keeps no secrets"


class CommandError(PicoDError):
    """Base of: the command did not start."""


class InvalidCommandError(CommandError):
    """No command can look like this."""

    reason = "INVALID_COMMAND"
    text = "the command is malformed"


class CommandNotFoundError(CommandError):
    """There is no such program."""

    reason = "COMMAND_NOT_FOUND"
    text = "the command was not found"


class CommandNotExecutableError(CommandError):
    """There is such a file, but it cannot be executed."""

    reason = "COMMAND_NOT_EXECUTABLE"
    text = "the command cannot be executed"


class ProcessLimitError(CommandError):
    """The sandbox has as many processes as it may have."""

    reason = "PROCESS_LIMIT"
    text = "the sandbox has too many processes"


class CodeError(PicoDError):
    """Base of: the code did not run."""


class ContextNotFoundError(CodeError):
    """There is no such context."""

    reason = "CONTEXT_NOT_FOUND"
    text = "there is no such context"


class ContextBusyError(CodeError):
    """Too many calls wait for the context, or this one waited too long."""

    reason = "CONTEXT_BUSY"
    text = "the context is busy"


class ContextLimitError(CodeError):
    """The sandbox has as many contexts as it may have."""

    reason = "CONTEXT_LIMIT"
    text = "the sandbox has too many contexts"


class LanguageNotAvailableError(CodeError):
    """The sandbox has no interpreter of that language."""

    reason = "LANGUAGE_NOT_AVAILABLE"
    text = "there is no interpreter of that language"


class FileError(PicoDError):
    """Base of: the sandbox refused to do this with a file."""


class InvalidPathError(FileError):
    """No path can look like this, or none of this kind can be used so."""

    reason = "INVALID_PATH"
    text = "the path is malformed"


class PathOutsideWorkspaceError(FileError):
    """The path leads out of /workspace and /tmp."""

    reason = "PATH_OUTSIDE_WORKSPACE"
    text = "the path leads out of the workspace"


class MissingFileError(FileError):
    """There is no such file or directory."""

    reason = "FILE_NOT_FOUND"
    text = "no such file or directory"


class FileExistsInSandboxError(FileError):
    """There is such a file already."""

    reason = "FILE_EXISTS"
    text = "the file exists already"


class NotARegularFileError(FileError):
    """It is a device, a FIFO or a socket."""

    reason = "NOT_A_REGULAR_FILE"
    text = "not a regular file"


class NotAFolderError(FileError):
    """A directory was needed."""

    reason = "NOT_A_DIRECTORY"
    text = "not a directory"


class IsAFolderError(FileError):
    """A file was needed."""

    reason = "IS_A_DIRECTORY"
    text = "is a directory"


class FolderNotEmptyError(FileError):
    """The directory has entries."""

    reason = "DIRECTORY_NOT_EMPTY"
    text = "the directory is not empty"


class FilePermissionError(FileError):
    """Its mode forbids it."""

    reason = "FILE_PERMISSION"
    text = "the file's mode does not allow it"


class FileTooLargeError(FileError):
    """The file would be larger than a file may be."""

    reason = "FILE_TOO_LARGE"
    text = "the file would be too large"


class NoSpaceError(FileError):
    """The workspace is full."""

    reason = "NO_SPACE"
    text = "no space left in the workspace"


class SizeMismatchError(FileError):
    """The commit told another size than was sent."""

    reason = "SIZE_MISMATCH"
    text = "the size differs from what was sent"


class UploadNotCommittedError(FileError):
    """The upload ended without a commit."""

    reason = "UPLOAD_NOT_COMMITTED"
    text = "the upload ended without a commit"


class RunnerFaultError(PicoDError):
    """The runner ended or broke the protocol; the sandbox is lost."""

    reason = "RUNNER_FAULT"
    text = "the sandbox's runner failed"


class IsolationError(PicoDError):
    """No isolated runner could be started here; *hint* says what would help."""

    reason = "SANDBOX_START_FAILED"
    text = "the sandbox could not be isolated"

    def __init__(self, text: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


def _with_subclasses(kind: type[PicoDError]) -> list[type[PicoDError]]:
    return [kind, *(sub for c in kind.__subclasses__() for sub in _with_subclasses(c))]


ERRORS_BY_REASON = {kind.reason: kind for kind in _with_subclasses(PicoDError)[1:]}
"""The class of each reason that the runner may tell."""
