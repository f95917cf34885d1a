"""Our values in the runner's bytes, and back; what comes back is checked."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from picod import _protocol as wire
from picod._code_messages import pairs
from picod._errors import InvalidCommandError, InvalidRequestError
from picod._types import Cause, Exited, FileInfo, FileType, Output, Started
from picod._values import number, pack, unpack_dict
from picod.inside import records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from picod._spawn import Place
    from picod._types import Command, Limits
    from picod._values import Value

__all__ = [
    "Events",
    "Stages",
    "check_hello",
    "execute",
    "hello",
    "info",
    "infos",
    "offset",
    "stages",
]

_MAX_OFFSET = 2**62
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIMITS = (
    "cpu_seconds",
    "file_size",
    "inodes",
    "memory",
    "open_files",
    "output",
    "processes",
)
_CAUSES = {cause.value for cause in Cause}
_STREAMS: dict[int, Literal["stdout", "stderr"]] = {
    wire.STDOUT: "stdout",
    wire.STDERR: "stderr",
}


@dataclass(frozen=True, slots=True)
class Stages:
    """How many milliseconds each part of a runner's start took."""

    spawn: float
    """Until the process was made."""
    isolate: float
    """Until the interpreter ran inside: the level's and the interpreter's own start."""
    load: float
    """Until the runner's code was loaded."""
    greet: float
    """Until we had its HELLO."""

    @property
    def total(self) -> float:
        """All together."""
        return self.spawn + self.isolate + self.load + self.greet


def hello(
    limits: Limits,
    place: Place,
    environment: Mapping[str, str],
    imports: Sequence[str] = (),
    *,
    watch: bool,
) -> bytes:
    """Encode our HELLO: where things are, the limits, environment and imports.

    *watch*: whether the runner must look at the memory of all processes itself.
    """
    defaults = {
        "PATH": ":".join(filter(None, (place.programs, _PATH))),
        "HOME": os.fsdecode(place.workspace),
        "TMPDIR": os.fsdecode(place.scratch),
        "LANG": "C.UTF-8",
        "USER": "user",
        "LOGNAME": "user",
    }
    values: dict[bytes, Value] = {
        name.encode(): int(getattr(limits, name)) for name in _LIMITS
    }
    values[b"version"] = wire.VERSION
    values[b"workspace"] = place.workspace
    values[b"scratch"] = place.scratch
    values[b"isolated"] = int(place.isolated)
    values[b"watch"] = int(watch)
    if place.filter:
        values[b"filter"] = place.filter
    values[b"imports"] = [name.encode() for name in imports]
    values[b"environment"] = pairs(defaults | dict(environment))
    return wire.frame(wire.HELLO, 0, pack(values))


def check_hello(values: dict[bytes, Value]) -> None:
    """Refuse a runner that speaks otherwise.

    Raises:
        ProtocolError: it does.

    """
    if number(values, b"version") != wire.VERSION:
        raise wire.ProtocolError("the runner speaks another version")
    for name in (b"began_ns", b"loaded_ns", b"ready_ns"):
        number(values, name)


def stages(values: dict[bytes, Value], began: int, made: int) -> Stages:
    """Tell how long each part of the start took; times are monotonic, in ns.

    The runner's clock may be another than ours: gVisor's kernel has its own.
    """
    inside = [number(values, name) for name in (b"began_ns", b"loaded_ns", b"ready_ns")]
    load, greet = (b - a for a, b in itertools.pairwise(inside))
    isolate = time.monotonic_ns() - made - load - greet
    parts = (made - began, isolate, load, greet)
    return Stages(*(part / 1e6 for part in parts))


def execute(command: Command, timeout: float) -> bytes:
    """Encode the request to run *command* for at most *timeout* seconds.

    Raises:
        InvalidCommandError: it is too large.

    """
    arguments: list[Value] = [os.fsencode(text) for text in command.argv]
    request = pack(
        {
            b"op": b"execute",
            b"argv": arguments,
            b"environment": pairs(command.environment),
            b"cwd": command.cwd,
            b"stdin": int(bool(command.stdin)),
            b"timeout_ms": max(1, round(timeout * 1000)),
        }
    )
    if len(request) > wire.MAX_REQUEST:
        raise InvalidCommandError("the command is too large")
    return request


def offset(value: int) -> int:
    """Check an offset or a length in bytes.

    Raises:
        InvalidRequestError: no file is that long.

    """
    if not 0 <= value <= _MAX_OFFSET:
        raise InvalidRequestError("no file is that long")
    return value


def infos(payload: bytes) -> list[FileInfo]:
    """Decode the records of ENTRIES."""
    return [
        FileInfo(name, path, FileType(kind), size, mode, modified, target)
        for kind, mode, size, modified, name, path, target in records.decode(payload)
    ]


def info(payload: bytes) -> FileInfo:
    """Decode the record of INFO.

    Raises:
        ProtocolError: it is not exactly one.

    """
    found = infos(payload)
    if len(found) != 1:
        raise wire.ProtocolError("not one file record")
    return found[0]


class Events:
    """Turns the frames of one command into events, in their only order."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._offsets = dict.fromkeys(_STREAMS, 0)
        self._started = False
        self.over = False

    def event(self, kind: int, payload: bytes) -> Started | Output | Exited:
        """Decode one frame.

        Raises:
            ProtocolError: it cannot come now.

        """
        if kind == wire.STARTED and not self._started:
            self._started = True
            pid = number(unpack_dict(payload), b"pid")
            return Started(f"{self._stream:x}", pid)
        if not self._started or kind not in (*_STREAMS, wire.DONE):
            raise wire.ProtocolError(f"frame of type {kind} out of order")
        if kind == wire.DONE:
            self.over = True
            return _exited(unpack_dict(payload))
        before = self._offsets[kind]
        self._offsets[kind] += len(payload)
        return Output(_STREAMS[kind], before, payload)


def _exited(values: dict[bytes, Value]) -> Exited:
    code, signal = number(values, b"code"), number(values, b"signal")
    cause, duration = number(values, b"cause"), number(values, b"duration_ns")
    ended = (0 <= code <= 255) == (signal == 0)  # noqa: PLR2004
    if not ended or not 0 <= signal <= 64 or cause not in _CAUSES or duration < 0:  # noqa: PLR2004
        raise wire.ProtocolError("no command ends like this")
    return Exited(
        code=None if signal else code,
        signal=signal or None,
        cause=Cause(cause),
        duration=duration / 1e9,
    )
