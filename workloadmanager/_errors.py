"""What can go wrong in the WorkloadManager.

WorkloadManagerError
├── StateError                 the state folder cannot be used
├── TemplateFileError          the template file has faults
├── InvalidRequestError        the caller asked for something that cannot be
│   ├── InvalidPathError       a path that no new file can have
│   ├── PathOutsideWorkspaceError
│   └── BindingTooLargeError   more files or secrets than one message takes
├── SecretsNotIsolatedError    secrets for a sandbox that nothing isolates
├── TemplateNotFoundError
├── SessionNotFoundError
├── SessionExpiredError        it was, and ended less than 24 hours ago
├── RequestMismatchError       a request id used again for something else
├── PoolExhaustedError         no more sandboxes now
├── SandboxStartError          a sandbox could not be made
│   ├── NoIdentityError        for want of an identity
│   ├── BindingError           a sandbox did not confirm its session
│   └── BindingRefusedError    it does not take a file or secret
├── RenewalError               a sandbox did not take its next identity
└── ClosingError               the service is going down
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workloadmanager._values import Session

__all__ = [
    "BindingError",
    "BindingRefusedError",
    "BindingTooLargeError",
    "ClosingError",
    "InvalidPathError",
    "InvalidRequestError",
    "NoIdentityError",
    "PathOutsideWorkspaceError",
    "PoolExhaustedError",
    "RenewalError",
    "RequestMismatchError",
    "SandboxStartError",
    "SecretsNotIsolatedError",
    "SessionExpiredError",
    "SessionNotFoundError",
    "StateError",
    "TemplateFileError",
    "TemplateNotFoundError",
    "WorkloadManagerError",
]


class WorkloadManagerError(Exception):
    """Root of this room's errors; *metadata* goes to the caller as it is."""

    metadata: Mapping[str, str] = {}  # empty and never written


class StateError(WorkloadManagerError):
    """The state folder cannot be used; *hint* says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class TemplateFileError(WorkloadManagerError):
    """The template file has *faults*, each with its place."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class InvalidRequestError(WorkloadManagerError):
    """The field *field* of a request is no good."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.metadata = {"field": field}


class InvalidPathError(InvalidRequestError):
    """No file of a new workspace can be at *path*."""

    def __init__(self, path: bytes, reason: str) -> None:
        super().__init__("files", f"{os.fsdecode(path)!r} {reason}")


class PathOutsideWorkspaceError(InvalidRequestError):
    """The file at *path* would be out of the workspace."""

    def __init__(self, path: bytes) -> None:
        super().__init__("files", f"{os.fsdecode(path)!r} leads out of the workspace")


class BindingTooLargeError(InvalidRequestError):
    """There are more of *field*, or larger ones, than one message takes."""


class SecretsNotIsolatedError(WorkloadManagerError):
    """There is no place for secrets that nobody else reads."""

    def __init__(self) -> None:
        super().__init__("secrets: isolation level none keeps none")


class TemplateNotFoundError(WorkloadManagerError):
    """There is no template of this name."""

    def __init__(self, name: str) -> None:
        super().__init__("no such template")
        self.metadata = {"template": name}


class SessionNotFoundError(WorkloadManagerError):
    """There is no session of this id, nor was there one in the last 24 hours."""

    def __init__(self, session_id: str) -> None:
        super().__init__("no such session")
        self.metadata = {"session_id": session_id}


class SessionExpiredError(WorkloadManagerError):
    """The session ended less than 24 hours ago."""

    def __init__(self, session: Session) -> None:
        super().__init__("the session has ended")
        self.metadata = {
            "session_id": session.session_id,
            "ended_by": session.ended_by,
            "last_fault": session.last_fault,
            "owner_issuer": session.owner.issuer,
            "owner_subject": session.owner.subject,
        }


class RequestMismatchError(WorkloadManagerError):
    """The request id made a session of another namespace or template."""

    def __init__(self, session: Session) -> None:
        super().__init__("this request id made a session of another kind")
        self.metadata = {
            "namespace": session.namespace,
            "template": session.template,
        }


class PoolExhaustedError(WorkloadManagerError):
    """No further sandbox can be made; try again after *retry_after* seconds."""

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__("no more sandboxes can be made now")
        self.metadata = {"limit": str(limit)}
        self.retry_after = retry_after


class SandboxStartError(WorkloadManagerError):
    """A sandbox could not be made; *detail* is for our log only."""

    def __init__(self, detail: str) -> None:
        super().__init__("the sandbox did not start")
        self.detail = detail


class NoIdentityError(SandboxStartError):
    """Nobody gives a new sandbox its identity now; *detail* is for our log only."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.args = ("no identity can be had for a new sandbox now",)


class BindingError(SandboxStartError):
    """A sandbox did not confirm its session in time, and must not be used."""


class BindingRefusedError(SandboxStartError):
    """A sandbox does not take what its session brings, for *reason*; no other would."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.args = (f"the sandbox does not take it: {text}",)
        self.metadata = {"fault": reason}


class RenewalError(WorkloadManagerError):
    """A sandbox did not take its next identity; *reason* is one stable word."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ClosingError(WorkloadManagerError):
    """The WorkloadManager is going down and makes nothing new."""

    def __init__(self) -> None:
        super().__init__("the WorkloadManager is shutting down")
