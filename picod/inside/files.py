"""Reading and writing files: generators that yield whenever they cannot go on.

Each `yield` says whether the work could go on at once (True: others get their turn)
or waits for credit or data of its own stream (False).
"""

from __future__ import annotations

import errno
import os
import stat

from picod import _protocol as wire
from picod._values import number, text, unpack_dict
from picod.inside import records
from picod.inside.link import Call, reason_of
from picod.inside.paths import PathError, Place, Root, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from picod._values import Value

    Work = Generator[bool, None, None]
    Request = dict[bytes, Value]

CREATE, TRUNCATE, AT_OFFSET, APPEND = 1, 2, 3, 4
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Transfer(Call):
    """The stream of one file operation.

    Args:
        work: makes the generator that does it.

    """

    def __init__(self, call: Call, work: Callable[[Transfer], Work]) -> None:
        super().__init__(call.link, call.stream)
        self.inbox: list[bytes] = []
        self.end: bytes | None = None
        self._work = work(self)

    def go_on(self) -> bool:
        """Do the next piece; return whether there is more to do at once."""
        try:
            return next(self._work)
        except StopIteration:
            return False
        except (OSError, PathError) as error:
            self.fail(*explain(error))
            return False
        except OverflowError:
            self.fail(b"INVALID_REQUEST", "no file is that long")
            return False

    def data(self, payload: bytes) -> None:
        """Keep *payload* until the work takes it."""
        self.count(len(payload))
        self.inbox.append(payload)

    def finish(self, payload: bytes) -> None:
        """Note the commit."""
        self.end = payload

    def cancel(self) -> None:
        """Give the work up; it cleans up after itself."""
        self._work.close()
        self.done({})


def explain(error: OSError | PathError) -> tuple[bytes, str]:
    """Tell reason and detail of *error*."""
    if isinstance(error, PathError):
        return error.reason, error.detail
    return reason_of(error.errno or 0), (error.strerror or "").lower()


def info(place: Place) -> bytes:
    """Describe what *place* names, without following a symlink."""
    status = os.stat(place.name, dir_fd=place.parent, follow_symlinks=False)
    target = b""
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(place.name, dir_fd=place.parent)
    name = place.path.rsplit(b"/", 1)[-1]
    return records.encode(status, name, place.path, target)


def open_regular(place: Place, flags: int, mode: int = 0) -> int:
    """Open the regular file at *place*; neither a FIFO nor a device makes this hang.

    Raises:
        PathError: it is something else.

    """
    descriptor = os.open(place.name, flags | _SAFE, mode, dir_fd=place.parent)
    try:
        check_regular(os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(mode: int) -> None:
    """Refuse all but regular files.

    Raises:
        PathError: it is none.

    """
    if stat.S_ISDIR(mode):
        raise PathError(b"IS_A_DIRECTORY", "is a directory")
    if not stat.S_ISREG(mode):
        raise PathError(b"NOT_A_REGULAR_FILE", "not a regular file")


def read(call: Transfer, roots: list[Root], request: Request) -> Work:
    """Send the file's description, then its bytes."""
    offset, left = number(request, b"offset"), number(request, b"length")
    with find(roots, text(request, b"path"), follow=True) as place:
        descriptor = open_regular(place, os.O_RDONLY)
        try:
            call.send(wire.INFO, info(place))
            while True:
                while not call.free:
                    yield False
                size = min(call.free, left) if left else call.free
                chunk = os.pread(descriptor, size, offset)
                if not chunk:
                    break
                call.send(wire.DATA, chunk)
                offset += len(chunk)
                if left:
                    left -= len(chunk)
                    if not left:
                        break
                yield True
        finally:
            os.close(descriptor)
    call.done({})


def write(call: Transfer, roots: list[Root], request: Request, largest: int) -> Work:
    """Take data until the commit, then put the file in its place."""
    mode = number(request, b"mode")
    make = bool(number(request, b"parents"))
    with find(roots, text(request, b"path"), follow=mode != CREATE, make=make) as place:
        whole = mode in (CREATE, TRUNCATE)
        permissions = number(request, b"permissions") or 0o644
        draft = _Draft(place, permissions, mode) if whole else None
        descriptor = (
            draft.descriptor if draft else _open_in_place(place, mode, permissions)
        )
        try:
            start = number(request, b"offset") if mode == AT_OFFSET else 0
            if mode == APPEND:
                start = os.fstat(descriptor).st_size
            size = yield from _receive(call, descriptor, start, largest)
            if unpack_dict(call.end or b"").get(b"size") != size:
                raise PathError(b"SIZE_MISMATCH", f"{size} bytes were sent")
            if draft:
                draft.publish()
            call.send(wire.INFO, info(place))
        finally:
            os.close(descriptor)
            if draft:
                draft.discard()
    call.done({})


def _receive(
    call: Transfer, descriptor: int, start: int, largest: int
) -> Generator[bool, None, int]:
    """Write what comes; return how many bytes came."""
    size = 0
    while True:
        while call.inbox:
            chunk = call.inbox.pop(0)
            if start + size + len(chunk) > largest:
                raise PathError(b"FILE_TOO_LARGE", f"a file holds at most {largest}")
            rest = memoryview(chunk)
            while rest:
                written = os.pwrite(descriptor, rest, start + size)
                size += written
                rest = rest[written:]
            call.take(len(chunk))
        if call.end is not None:
            return size
        yield False


def _open_in_place(place: Place, mode: int, permissions: int) -> int:
    if mode == AT_OFFSET:
        return open_regular(place, os.O_WRONLY)
    try:
        return open_regular(place, os.O_WRONLY)
    except FileNotFoundError:
        descriptor = open_regular(place, os.O_WRONLY | os.O_CREAT, permissions)
        os.fchmod(descriptor, permissions)
        return descriptor


class _Draft:
    """A hidden file beside the one it will become."""

    def __init__(self, place: Place, permissions: int, mode: int) -> None:
        self._place = place
        self._replace = mode == TRUNCATE
        permissions = self._check(permissions)
        self._name: bytes | None = b".cubemesh-%s" % os.urandom(12).hex().encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
        self.descriptor = os.open(self._name, flags, 0o600, dir_fd=place.parent)
        self._permissions = permissions

    def _check(self, permissions: int) -> int:
        """Refuse what could not be published; a replaced file keeps its mode."""
        place = self._place
        if place.is_root:
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        try:
            status = os.stat(place.name, dir_fd=place.parent, follow_symlinks=False)
        except FileNotFoundError:
            return permissions
        if not self._replace:
            raise FileExistsError(errno.EEXIST, "the file exists")
        check_regular(status.st_mode)
        return stat.S_IMODE(status.st_mode)

    def publish(self) -> None:
        """Give it its name, whole."""
        here = self._place.parent
        os.fchmod(self.descriptor, self._permissions)
        assert self._name  # noqa: S101
        if self._replace:
            os.rename(self._name, self._place.name, src_dir_fd=here, dst_dir_fd=here)
            self._name = None
        else:
            os.link(self._name, self._place.name, src_dir_fd=here, dst_dir_fd=here)

    def discard(self) -> None:
        """Remove the hidden name."""
        if self._name is None:
            return
        try:
            os.unlink(self._name, dir_fd=self._place.parent)
        except OSError:
            return  # the code inside removed it or its folder
