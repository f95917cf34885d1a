"""Code that is run in contexts: plain values, checked when made."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from picod._errors import InvalidRequestError, LanguageNotAvailableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Code",
    "CodeEnd",
    "CodeFinished",
    "CodeStarted",
    "ContextInfo",
    "Contexts",
    "Fault",
    "Import",
    "NewContext",
    "Result",
    "language",
]

_LARGEST = 1024 * 1024
_NAMES: Final = {
    "python": "python",
    "python3": "python",
    "py": "python",
    "bash": "bash",
    "sh": "bash",
    "node": "node",
    "javascript": "node",
    "js": "node",
}


def language(name: str) -> str:
    """Return the one name of the language *name*; empty stays empty.

    Raises:
        LanguageNotAvailableError: no sandbox knows it.
    """
    if name and name not in _NAMES:
        known = ", ".join(sorted(set(_NAMES.values())))
        raise LanguageNotAvailableError(f"there is no language {name!r}, but {known}")
    return _NAMES.get(name, "")


@dataclass(frozen=True, slots=True)
class Code:
    """What to run, and where: in *context*, or if that is empty in the language's own.

    *environment* is for an interpreter that must be made first, *timeout* is in seconds
    and capped by the sandbox's own limit.
    """

    text: str
    context: str = ""
    language: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no interpreter takes."""
        if len(self.encoded) > _LARGEST:
            raise InvalidRequestError("code has at most 1 MiB: write it to a file")
        if "\0" in self.text:
            raise InvalidRequestError("code holds no NUL")
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidRequestError("the timeout is not above zero")

    @property
    def encoded(self) -> bytes:
        """The text in UTF-8."""
        return self.text.encode()


@dataclass(frozen=True, slots=True)
class NewContext:
    """A context to make; *cwd* is a path inside (empty: the workspace)."""

    language: str
    cwd: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse what no process could have."""
        if b"\0" in self.cwd:
            raise InvalidRequestError("a path holds no NUL")
        for name, value in self.environment.items():
            if not name or "=" in name or "\0" in name + value:
                raise InvalidRequestError("an environment variable is malformed")


@dataclass(frozen=True, slots=True)
class CodeStarted:
    """The code has its turn; *notice* is what its caller should know of the context."""

    context: str
    count: int
    notice: str


@dataclass(frozen=True, slots=True)
class Result:
    """A value by media type; *main*: of the last expression; *cut*: what is missing."""

    main: bool
    data: Mapping[str, bytes]
    cut: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """How the code failed."""

    name: str
    value: str
    traceback: str


class CodeEnd(enum.Enum):
    """Why a call is over."""

    ENDED = 0
    TIMEOUT = 1
    DIED = 2


@dataclass(frozen=True, slots=True)
class CodeFinished:
    """The call is over; *duration* is in seconds."""

    cause: CodeEnd
    duration: float
    state_lost: bool
    output_omitted: int
    results_omitted: int


@dataclass(frozen=True, slots=True)
class ContextInfo:
    """One context."""

    name: str
    language: str
    cwd: bytes
    count: int
    busy: bool
    waiting: int


@dataclass(frozen=True, slots=True)
class Import:
    """A package imported ahead; *duration* in seconds, *memory* in bytes."""

    name: str
    duration: float
    memory: int
    error: str


@dataclass(frozen=True, slots=True)
class Contexts:
    """What a sandbox has to run code."""

    contexts: Sequence[ContextInfo]
    imports: Sequence[Import]
