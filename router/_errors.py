"""What the Router itself refuses or fails with.

RouterError
├── InvalidAskError           the call's metadata or message cannot be read
├── SessionRequiredError      no session named, and none may be made
├── SessionNotFoundError      nobody knows that session
├── SessionExpiredError       it is over (said to its owner only)
├── NotYoursError             it belongs to somebody else
├── SessionMismatchError      it lives in another namespace or template
├── MethodUnknownError        neither PicoD nor we have that method
├── OverloadedError           too many calls under way
├── SandboxUnreachableError   no connection to it, or it was lost
├── SandboxTimeoutError       no answer in time
├── ManagerUnreachableError   the WorkloadManager cannot be asked
└── ManagerAnswerError        the WorkloadManager's own refusal, passed on
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "InvalidAskError",
    "ManagerAnswerError",
    "ManagerUnreachableError",
    "MethodUnknownError",
    "NotYoursError",
    "OverloadedError",
    "RouterError",
    "SandboxTimeoutError",
    "SandboxUnreachableError",
    "SessionExpiredError",
    "SessionMismatchError",
    "SessionNotFoundError",
    "SessionRequiredError",
]


class RouterError(Exception):
    """The call cannot go on; the text is for the caller and names no internals."""

    def __init__(self, text: str, **metadata: str) -> None:
        super().__init__(text)
        self.metadata: Mapping[str, str] = metadata


class InvalidAskError(RouterError):
    """The call's metadata or message cannot be understood."""


class SessionRequiredError(RouterError):
    """The call names no session, and makes none by itself."""


class SessionNotFoundError(RouterError):
    """Nobody knows that session."""


class SessionExpiredError(RouterError):
    """The session is over; its owner may know."""


class NotYoursError(RouterError):
    """The session belongs to somebody else."""


class SessionMismatchError(RouterError):
    """The session lives in another namespace or template than the call names."""


class MethodUnknownError(RouterError):
    """No service here has that method."""


class OverloadedError(RouterError):
    """Too many calls are under way; ``metadata["limit"]`` says whose."""


class SandboxUnreachableError(RouterError):
    """There is no connection to the sandbox, or it was lost."""


class SandboxTimeoutError(RouterError):
    """The sandbox did not answer in time."""


class ManagerUnreachableError(RouterError):
    """The WorkloadManager cannot be asked now."""


class ManagerAnswerError(RouterError):
    """The WorkloadManager refused, with a reason of the public table.

    ``code`` is the number of the gRPC status; ``details`` holds the serialized
    google.rpc.Status that goes to the caller.
    """

    def __init__(self, text: str, *, code: int, reason: str, details: bytes) -> None:
        super().__init__(text)
        self.code, self.reason, self.details = code, reason, details
