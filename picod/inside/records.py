"""What a file is, in the bytes of INFO and ENTRIES; read by PicoD's end as well."""

from __future__ import annotations

import stat
import struct

from picod._protocol import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

# type, mode, size, modified (ns), lengths of name, path and symlink's target
_RECORD = struct.Struct("!BHQqHHH")
REGULAR, DIRECTORY, SYMLINK, OTHER = 1, 2, 3, 4


def kind_of(mode: int) -> int:
    """Tell what kind of thing *mode* belongs to."""
    if stat.S_ISREG(mode):
        return REGULAR
    if stat.S_ISDIR(mode):
        return DIRECTORY
    return SYMLINK if stat.S_ISLNK(mode) else OTHER


def encode(status: os.stat_result, name: bytes, path: bytes, target: bytes) -> bytes:
    """Encode one record."""
    head = _RECORD.pack(
        kind_of(status.st_mode),
        stat.S_IMODE(status.st_mode),
        status.st_size,
        status.st_mtime_ns,
        len(name),
        len(path),
        len(target),
    )
    return b"".join((head, name, path, target))


def decode(data: bytes) -> Iterator[tuple[int, int, int, int, bytes, bytes, bytes]]:
    """Yield kind, mode, size, modified, name, path and target of each record.

    Raises:
        ProtocolError: these bytes are no records.

    """
    at = 0
    while at < len(data):
        start = at + _RECORD.size
        if start > len(data):
            raise ProtocolError("a file record is cut short")
        kind, mode, size, modified, *lengths = _RECORD.unpack_from(data, at)
        ends = (
            start + lengths[0],
            start + lengths[0] + lengths[1],
            start + sum(lengths),
        )
        if ends[2] > len(data) or not REGULAR <= kind <= OTHER or mode > 0o7777:  # noqa: PLR2004
            raise ProtocolError("a file record is malformed")
        name, path = data[start : ends[0]], data[ends[0] : ends[1]]
        yield kind, mode, size, modified, name, path, data[ends[1] : ends[2]]
        at = ends[2]
