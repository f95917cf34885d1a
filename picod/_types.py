"""What a runner is asked and what it answers: plain values, checked when made."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from picod._errors import InvalidCommandError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Cause",
    "Command",
    "Exited",
    "FileInfo",
    "FileType",
    "Limits",
    "Mode",
    "Open",
    "Output",
    "Started",
]

_MIB = 1024 * 1024
_MAX_ARGV = 4096
_MAX_STDIN = 2 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one sandbox may use; sizes in bytes, times in seconds."""

    timeout: float = 300.0
    """The longest that one command may run."""
    output: int = 256 * _MIB
    """The most that one command may write to stdout and stderr together."""
    memory: int = 1024 * _MIB
    """Of all processes together, and of the files in tmpfs."""
    processes: int = 256
    open_files: int = 1024
    file_size: int = 1024 * _MIB
    cpu_seconds: int = 3600
    """Processor time of one process."""
    workspace: int = 0
    """What /workspace holds; 0: half of the memory."""
    scratch: int = 0
    """What /tmp holds; 0: a quarter of the memory."""
    inodes: int = 100_000
    """Files and folders in /workspace, and as many in /tmp."""

    def __post_init__(self) -> None:
        """Refuse what would let nothing run."""
        for name, share in (("workspace", 2), ("scratch", 4)):
            if not getattr(self, name):
                object.__setattr__(self, name, max(1, int(self.memory) // share))
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise InvalidRequestError(f"limit {name} is not above zero")
        if self.workspace + self.scratch + self.shared > self.memory:
            raise InvalidRequestError(
                "files count as memory: workspace and scratch must leave room in memory"
            )

    @property
    def shared(self) -> int:
        """What /dev/shm holds, in bytes."""
        return min(64 * _MIB, max(4096, int(self.memory) // 16))


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: *argv*, never a shell string; `argv[0]` is looked up in PATH.

    *environment* is added to the sandbox's, *cwd* is a path inside it (empty: the
    workspace), *timeout* is in seconds and capped by the sandbox's own limit.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: bytes = b""
    stdin: bytes = field(default=b"", repr=False)
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no kernel could execute."""
        if not 1 <= len(self.argv) <= _MAX_ARGV or not self.argv[0]:
            raise InvalidCommandError("argv needs 1 to 4,096 entries, the first filled")
        if any("\0" in text for text in self.argv) or b"\0" in self.cwd:
            raise InvalidCommandError("a command holds no NUL")
        for name, value in self.environment.items():
            if not name or "=" in name or "\0" in name + value:
                raise InvalidCommandError("an environment variable is malformed")
        if len(self.stdin) > _MAX_STDIN:
            raise InvalidCommandError("stdin takes at most 2 MiB")
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidCommandError("the timeout is not above zero")


@dataclass(frozen=True, slots=True)
class Started:
    """The command runs; *process_id* is opaque, *pid* is its number inside."""

    process_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class Output:
    """The command wrote *data*; *offset* bytes of this stream came before it."""

    stream: Literal["stdout", "stderr"]
    offset: int
    data: bytes


class Cause(enum.Enum):
    """Why a command is over."""

    ENDED = 0
    TIMEOUT = 1
    OUTPUT_LIMIT = 2
    MEMORY_LIMIT = 3
    SPACE_LIMIT = 4


@dataclass(frozen=True, slots=True)
class Exited:
    """The command and all its descendants are gone.

    Either *code* (0 to 255) or *signal* is set; *duration* is in seconds.
    """

    code: int | None
    signal: int | None
    cause: Cause
    duration: float


class FileType(enum.Enum):
    """What kind of thing a path names; OTHER: a device, FIFO or socket."""

    REGULAR = 1
    DIRECTORY = 2
    SYMLINK = 3
    OTHER = 4


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file; *modified_ns* is UTC in nanoseconds since 1970."""

    name: bytes
    path: bytes
    type: FileType
    size: int
    mode: int
    modified_ns: int
    symlink_target: bytes


class Mode(enum.Enum):
    """How a file is written; CREATE and TRUNCATE change it whole, at the commit."""

    CREATE = 1
    TRUNCATE = 2
    AT_OFFSET = 3
    APPEND = 4


@dataclass(frozen=True, slots=True)
class Open:
    """The file to write; *permissions* 0 means 0644 for a new file.

    *secret*: *path* is the name of a secret, which lies where no path leads.
    """

    path: bytes
    mode: Mode
    offset: int = 0
    permissions: int = 0
    make_parents: bool = False
    secret: bool = False
