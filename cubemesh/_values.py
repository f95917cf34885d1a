"""What the mesh tells, as values."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from cubemesh.v1 import picod_pb2, router_pb2, workloadmanager_pb2

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

FileType = Literal["file", "directory", "symlink", "other"]
SessionState = Literal["starting", "ready", "ended", "unknown"]
StartKind = Literal["warm", "cold", "unknown"]
_TIMED_OUT = 124
_KILLED = 128

_FILE_TYPES: dict[int, FileType] = {
    picod_pb2.FILE_TYPE_REGULAR: "file",
    picod_pb2.FILE_TYPE_DIRECTORY: "directory",
    picod_pb2.FILE_TYPE_SYMLINK: "symlink",
}
_STATES: dict[int, SessionState] = {
    workloadmanager_pb2.SESSION_STATE_STARTING: "starting",
    workloadmanager_pb2.SESSION_STATE_READY: "ready",
    workloadmanager_pb2.SESSION_STATE_ENDED: "ended",
}
_STARTS: dict[int, StartKind] = {
    workloadmanager_pb2.START_COLD: "cold",
    workloadmanager_pb2.START_WARM: "warm",
}


@dataclass(frozen=True, slots=True)
class CommandStarted:
    """The command runs; ``pid`` is its number inside the sandbox."""

    process_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """A piece of what the command wrote; ``offset`` bytes came before it."""

    stream: Literal["stdout", "stderr"]
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CommandExited:
    """The command is over, with all its descendants.

    ``exit_code`` is its status; 124 when its time was up, 128 + n when signal n ended
    it. ``duration`` is in seconds.
    """

    exit_code: int
    signal: int | None
    timed_out: bool
    output_limit_reached: bool
    duration: float
    memory_limit_reached: bool = False


CommandEvent = CommandStarted | CommandOutput | CommandExited


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command that is over.

    ``stdout`` and ``stderr`` hold the text (UTF-8, with what is not replaced by
    U+FFFD), the ``…_bytes`` twins exactly what was written. ``exit_code``, ``signal``,
    ``timed_out`` and ``duration`` are those of `CommandExited`.
    """

    stdout: str
    stderr: str
    exit_code: int
    signal: int | None
    timed_out: bool
    duration: float
    output_limit_reached: bool = False
    memory_limit_reached: bool = False
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file, directory or symlink in a sandbox.

    Bytes of a name that are not UTF-8 appear as surrogates, as in `os.fsdecode`.
    ``size`` is in bytes, ``mode`` the permission bits, ``modified`` in UTC.
    """

    name: str
    path: str
    type: FileType
    size: int
    mode: int
    modified: datetime
    symlink_target: str | None


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session as its owner sees it; times in UTC, ``idle_timeout`` in seconds.

    ``isolation`` is what separates its code from the host (``"bwrap"``,
    ``"gvisor"`` or ``"none"``), ``own_uid`` whether no other sandbox shares its user
    on the host. ``start`` tells whether its sandbox was made ahead (warm) or for this
    session.
    """

    session_id: str
    template: str
    state: SessionState
    created_at: datetime
    expires_at: datetime
    idle_timeout: float
    last_activity: datetime
    isolation: str
    own_uid: bool
    last_fault: str
    start: StartKind


class Text:
    """Bytes to text piece by piece: no character is cut at a border."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, data: bytes, *, final: bool = False) -> str:
        """Return the text that is complete; *final* gives the rest."""
        return self._decoder.decode(data, final)


def event_from(wire: picod_pb2.CommandEvent) -> CommandEvent | None:
    """Return *wire* as a value; ``None`` for an event this version does not know."""
    match wire.WhichOneof("event"):
        case "started":
            return CommandStarted(wire.started.process_id, wire.started.pid)
        case "output":
            is_error = wire.output.stream == picod_pb2.Output.STREAM_STDERR
            stream: Literal["stdout", "stderr"] = "stderr" if is_error else "stdout"
            return CommandOutput(stream, wire.output.offset, wire.output.data)
        case "exited":
            return _exited(wire.exited)
    return None


def _exited(wire: picod_pb2.Exited) -> CommandExited:
    signal = wire.signal if wire.WhichOneof("status") == "signal" else None
    timed_out = wire.cause == picod_pb2.Exited.CAUSE_TIMEOUT
    code = wire.code if signal is None else _KILLED + signal
    return CommandExited(
        exit_code=_TIMED_OUT if timed_out else code,
        signal=signal,
        timed_out=timed_out,
        output_limit_reached=wire.cause == picod_pb2.Exited.CAUSE_OUTPUT_LIMIT,
        duration=wire.duration.ToNanoseconds() / 1e9,
        memory_limit_reached=wire.cause == picod_pb2.Exited.CAUSE_MEMORY_LIMIT,
    )


def file_from(wire: picod_pb2.FileInfo) -> FileInfo:
    """Return *wire* as a value."""
    target = wire.symlink_target
    return FileInfo(
        name=os.fsdecode(wire.name),
        path=os.fsdecode(wire.path),
        type=_FILE_TYPES.get(wire.type, "other"),
        size=wire.size,
        mode=wire.mode,
        modified=_time(wire.modified),
        symlink_target=os.fsdecode(target) if target else None,
    )


def session_from(wire: router_pb2.Session) -> SessionInfo:
    """Return *wire* as a value."""
    return SessionInfo(
        session_id=wire.session_id,
        template=wire.template,
        state=_STATES.get(wire.state, "unknown"),
        created_at=_time(wire.created_at),
        expires_at=_time(wire.expires_at),
        idle_timeout=wire.idle_timeout.ToNanoseconds() / 1e9,
        last_activity=_time(wire.last_activity),
        isolation=wire.isolation.level,
        own_uid=wire.isolation.own_uid,
        last_fault=wire.last_fault,
        start=_STARTS.get(wire.start, "unknown"),
    )


def _time(wire: Timestamp) -> datetime:
    return wire.ToDatetime(tzinfo=UTC)
