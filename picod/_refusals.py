"""How PicoD's errors show on the wire: one status per reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grpc import StatusCode

from picod import _errors
from serving import Refusal

if TYPE_CHECKING:
    from serving import Table

__all__ = ["METHOD_NOT_SERVED", "TABLE"]

_CODES: Final = {
    _errors.InvalidRequestError: StatusCode.INVALID_ARGUMENT,
    _errors.NotBoundError: StatusCode.FAILED_PRECONDITION,
    _errors.AlreadyBoundError: StatusCode.ALREADY_EXISTS,
    _errors.ShuttingDownError: StatusCode.UNAVAILABLE,
    _errors.IdentityRefusedError: StatusCode.INVALID_ARGUMENT,
    _errors.IdentityNotHandedError: StatusCode.FAILED_PRECONDITION,
    _errors.SecretsNotIsolatedError: StatusCode.FAILED_PRECONDITION,
    _errors.InvalidCommandError: StatusCode.INVALID_ARGUMENT,
    _errors.CommandNotFoundError: StatusCode.NOT_FOUND,
    _errors.CommandNotExecutableError: StatusCode.FAILED_PRECONDITION,
    _errors.ProcessLimitError: StatusCode.RESOURCE_EXHAUSTED,
    _errors.ContextNotFoundError: StatusCode.NOT_FOUND,
    _errors.ContextBusyError: StatusCode.RESOURCE_EXHAUSTED,
    _errors.ContextLimitError: StatusCode.RESOURCE_EXHAUSTED,
    _errors.LanguageNotAvailableError: StatusCode.NOT_FOUND,
    _errors.InvalidPathError: StatusCode.INVALID_ARGUMENT,
    _errors.PathOutsideWorkspaceError: StatusCode.INVALID_ARGUMENT,
    _errors.MissingFileError: StatusCode.NOT_FOUND,
    _errors.FileExistsInSandboxError: StatusCode.ALREADY_EXISTS,
    _errors.NotARegularFileError: StatusCode.INVALID_ARGUMENT,
    _errors.NotAFolderError: StatusCode.INVALID_ARGUMENT,
    _errors.IsAFolderError: StatusCode.INVALID_ARGUMENT,
    _errors.FolderNotEmptyError: StatusCode.FAILED_PRECONDITION,
    _errors.FilePermissionError: StatusCode.PERMISSION_DENIED,
    _errors.FileTooLargeError: StatusCode.RESOURCE_EXHAUSTED,
    _errors.NoSpaceError: StatusCode.RESOURCE_EXHAUSTED,
    _errors.SizeMismatchError: StatusCode.INVALID_ARGUMENT,
    _errors.UploadNotCommittedError: StatusCode.ABORTED,
    _errors.RunnerFaultError: StatusCode.UNAVAILABLE,
}

TABLE: Final[Table] = {
    kind: Refusal(code, kind.reason) for kind, code in _CODES.items()
}

METHOD_NOT_SERVED: Final = Refusal(StatusCode.UNIMPLEMENTED, "NOT_YET_SERVED")
