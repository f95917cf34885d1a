"""Between messages and the values that the runner takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cubemesh.v1 import picod_pb2
from picod._errors import InvalidRequestError
from picod._types import (
    Cause,
    Command,
    Exited,
    FileInfo,
    FileType,
    Mode,
    Open,
    Output,
    Started,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "chunk",
    "command",
    "execute_response",
    "file_info",
    "opening",
    "output",
    "read_file_response",
]

_CHUNK_LIMIT = 1 << 20
_NANOSECONDS = 10**9
# The years 1 to 9999, all that a Timestamp may tell; code inside can set any time.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799

_STREAMS: Final = {
    "stdout": picod_pb2.Output.STREAM_STDOUT,
    "stderr": picod_pb2.Output.STREAM_STDERR,
}
_CAUSES: Final = {
    Cause.ENDED: picod_pb2.Exited.CAUSE_ENDED,
    Cause.TIMEOUT: picod_pb2.Exited.CAUSE_TIMEOUT,
    Cause.OUTPUT_LIMIT: picod_pb2.Exited.CAUSE_OUTPUT_LIMIT,
    Cause.MEMORY_LIMIT: picod_pb2.Exited.CAUSE_MEMORY_LIMIT,
    Cause.SPACE_LIMIT: picod_pb2.Exited.CAUSE_SPACE_LIMIT,
}
_TYPES: Final = {
    FileType.REGULAR: picod_pb2.FILE_TYPE_REGULAR,
    FileType.DIRECTORY: picod_pb2.FILE_TYPE_DIRECTORY,
    FileType.SYMLINK: picod_pb2.FILE_TYPE_SYMLINK,
    FileType.OTHER: picod_pb2.FILE_TYPE_OTHER,
}
_MODES: Final = {
    picod_pb2.WriteFileRequest.Open.MODE_CREATE: Mode.CREATE,
    picod_pb2.WriteFileRequest.Open.MODE_TRUNCATE: Mode.TRUNCATE,
    picod_pb2.WriteFileRequest.Open.MODE_AT_OFFSET: Mode.AT_OFFSET,
    picod_pb2.WriteFileRequest.Open.MODE_APPEND: Mode.APPEND,
}


def command(
    request: picod_pb2.ExecuteRequest, environment: Mapping[str, str]
) -> Command:
    """Return what *request* asks for, in a session with *environment*.

    Raises:
        InvalidCommandError: it cannot be run as written.
    """
    timeout = None
    if request.HasField("timeout"):
        timeout = request.timeout.seconds + request.timeout.nanos / _NANOSECONDS
    return Command(
        argv=tuple(request.argv),
        environment={**environment, **request.environment},
        cwd=request.working_directory,
        stdin=request.stdin,
        timeout=timeout,
    )


def execute_response(
    events: Iterable[Started | Output | Exited],
) -> picod_pb2.ExecuteResponse:
    """Return the message for *events*."""
    return picod_pb2.ExecuteResponse(events=map(_event, events))


def _event(event: Started | Output | Exited) -> picod_pb2.CommandEvent:
    match event:
        case Output():
            return picod_pb2.CommandEvent(output=output(event))
        case Started(process_id, pid):
            started = picod_pb2.Started(process_id=process_id, pid=pid)
            return picod_pb2.CommandEvent(started=started)
        case Exited():
            return picod_pb2.CommandEvent(exited=_exited(event))


def output(event: Output) -> picod_pb2.Output:
    """Return the message for a piece of output."""
    return picod_pb2.Output(
        stream=_STREAMS[event.stream], offset=event.offset, data=event.data
    )


def _exited(event: Exited) -> picod_pb2.Exited:
    exited = picod_pb2.Exited(cause=_CAUSES[event.cause])
    if event.signal is not None:
        exited.signal = event.signal
    elif event.code is not None:
        exited.code = event.code
    exited.duration.FromNanoseconds(round(event.duration * _NANOSECONDS))
    return exited


def read_file_response(part: FileInfo | bytes) -> picod_pb2.ReadFileResponse:
    """Return the message for one *part* of a file that is read."""
    if isinstance(part, bytes):
        return picod_pb2.ReadFileResponse(data=part)
    return picod_pb2.ReadFileResponse(info=file_info(part))


def file_info(info: FileInfo) -> picod_pb2.FileInfo:
    """Return the message for *info*."""
    message = picod_pb2.FileInfo(
        name=info.name,
        path=info.path,
        type=_TYPES[info.type],
        size=info.size,
        mode=info.mode,
        symlink_target=info.symlink_target,
    )
    seconds, nanos = divmod(info.modified_ns, _NANOSECONDS)
    message.modified.seconds = min(max(seconds, _FIRST_SECOND), _LAST_SECOND)
    message.modified.nanos = nanos
    return message


def opening(message: picod_pb2.WriteFileRequest) -> Open:
    """Return how the file is opened, from the first *message* of an upload.

    Raises:
        InvalidRequestError: it is no `open`, or names no mode.
    """
    if message.WhichOneof("part") != "open":
        raise InvalidRequestError("an upload begins with `open`")
    told = message.open
    if (mode := _MODES.get(told.mode)) is None:
        raise InvalidRequestError("`open` names no mode")
    return Open(
        path=told.path,
        mode=mode,
        offset=told.offset,
        permissions=told.permissions,
        make_parents=told.make_parents,
    )


def chunk(data: bytes) -> bytes:
    """Return *data* if an upload may hold it in one message.

    Raises:
        InvalidRequestError: it is empty, or more than 1 MiB.
    """
    if not 0 < len(data) <= _CHUNK_LIMIT:
        raise InvalidRequestError("`data` holds 1 byte to 1 MiB")
    return data
