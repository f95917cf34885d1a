"""Describing, listing, making, moving and removing; generators as in `files`."""

from __future__ import annotations

import errno
import os
import stat

from picod import _protocol as wire
from picod._values import number, text
from picod.inside.files import info
from picod.inside.paths import PathError, Place, Root, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.files import Request, Transfer, Work

_BATCH = 1000
_SLICE = 200  # entries removed before others get their turn
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def describe(call: Transfer, roots: list[Root], request: Request) -> Work:
    """Send the description of one path."""
    with find(roots, text(request, b"path"), follow=False) as place:
        call.send(wire.INFO, info(place))
    call.done({})
    yield False


def entries(call: Transfer, roots: list[Root], request: Request) -> Work:
    """Send the entries of one folder, sorted by name, in batches."""
    with find(roots, text(request, b"path"), follow=True) as place:
        path = place.path
        descriptor = os.open(place.name, _FOLDER, dir_fd=place.parent)
    try:
        names = sorted(os.fsencode(name) for name in os.listdir(descriptor))
        batch: list[bytes] = []
        size = 0
        for name in names:
            record = _entry(descriptor, name, path)
            if len(batch) == _BATCH or size + len(record) > wire.MAX_PAYLOAD:
                while call.credit < size or not call.link.room:
                    yield False
                call.send(wire.ENTRIES, b"".join(batch))
                batch, size = [], 0
                yield True
            batch.append(record)
            size += len(record)
        while call.credit < size:
            yield False
        if batch:
            call.send(wire.ENTRIES, b"".join(batch))
    finally:
        os.close(descriptor)
    call.done({})


def _entry(descriptor: int, name: bytes, path: bytes) -> bytes:
    try:
        return info(Place(descriptor, name, path + b"/" + name))
    except FileNotFoundError:
        return b""  # gone since it was listed


def make(call: Transfer, roots: list[Root], request: Request) -> Work:
    """Make a folder and send its description."""
    parents = bool(number(request, b"parents"))
    mode = number(request, b"permissions") or 0o755
    with find(roots, text(request, b"path"), follow=True, make=parents) as place:
        try:
            os.mkdir(place.name, 0o700, dir_fd=place.parent)
        except FileExistsError:
            status = os.stat(place.name, dir_fd=place.parent, follow_symlinks=False)
            if not parents or not stat.S_ISDIR(status.st_mode):
                raise
        else:
            descriptor = os.open(place.name, _FOLDER, dir_fd=place.parent)
            try:
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
        call.send(wire.INFO, info(place))
    call.done({})
    yield False


def move(call: Transfer, roots: list[Root], request: Request) -> Work:
    """Rename, within one of the roots."""
    with (
        find(roots, text(request, b"path"), follow=False) as source,
        find(roots, text(request, b"target"), follow=False) as target,
    ):
        _not_a_root(source)
        _not_a_root(target)
        if not number(request, b"replace"):
            _vacant(target)
        os.rename(
            source.name,
            target.name,
            src_dir_fd=source.parent,
            dst_dir_fd=target.parent,
        )
        call.send(wire.INFO, info(target))
    call.done({})
    yield False


def _not_a_root(place: Place) -> None:
    if place.is_root:
        raise PathError(b"INVALID_PATH", "the workspace itself stays")


def _vacant(place: Place) -> None:
    try:
        os.stat(place.name, dir_fd=place.parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    raise PathError(b"FILE_EXISTS", "the target exists")


def remove(call: Transfer, roots: list[Root], request: Request) -> Work:
    """Delete a file, an empty folder, or if asked a folder with all that is in it."""
    with find(roots, text(request, b"path"), follow=False) as place:
        _not_a_root(place)
        status = os.stat(place.name, dir_fd=place.parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(place.name, dir_fd=place.parent)
        else:
            if number(request, b"recursive"):
                yield from empty(place.parent, place.name)
            os.rmdir(place.name, dir_fd=place.parent)
    call.done({})


def empty(parent: int, name: bytes) -> Work:
    """Remove all that is in the folder *name*, however deep it goes.

    A folder found in a folder is moved up beside it first, so two descriptors and
    short names are enough for any depth.
    """
    top = _open_folder(parent, name)
    lifted = _Lift(top)
    try:
        while True:
            names = os.listdir(top)
            if not names:
                return
            for number_of, entry in enumerate(map(os.fsencode, names), 1):
                if not _unlink(top, entry):
                    yield from _flatten(top, entry, lifted)
                if number_of % _SLICE == 0:
                    yield True
    finally:
        os.close(top)


def _flatten(top: int, name: bytes, lifted: _Lift) -> Work:
    """Empty the folder *name*: files go, folders that hold something move to *top*."""
    folder = _open_folder(top, name)
    try:
        for count, entry in enumerate(map(os.fsencode, os.listdir(folder)), 1):
            if not _unlink(folder, entry):
                lifted.take(folder, entry)
            if count % _SLICE == 0:
                yield True
    finally:
        os.close(folder)


class _Lift:
    """Moves folders into *top* under names that nobody else chose."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._prefix = b".cubemesh-removed-" + os.urandom(8).hex().encode()
        self._count = 0

    def take(self, folder: int, name: bytes) -> None:
        self._count += 1
        new = b"%s-%d" % (self._prefix, self._count)
        os.close(_open_folder(folder, name))  # moving a folder writes its `..`
        os.rename(name, new, src_dir_fd=folder, dst_dir_fd=self._top)


def _open_folder(parent: int, name: bytes) -> int:
    """Open a folder for emptying, whatever its mode."""
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    if os.fstat(descriptor).st_mode & 0o700 != 0o700:  # noqa: PLR2004
        os.fchmod(descriptor, 0o700)
    return descriptor


def _unlink(folder: int, name: bytes) -> bool:
    """Remove a file or an empty folder; return False for a folder that is not."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
    return True
