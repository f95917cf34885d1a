"""Finding a path without ever leaving the workspace.

Each step opens one name beneath a descriptor and follows no link by itself, so code
that swaps a folder for a symlink meanwhile gains nothing: not even the runner's own
`/proc/self` can be reached.
"""

from __future__ import annotations

import errno
import os
import stat

_MAX_LINKS = 40
_MAX_PATH = 4096
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class PathError(Exception):
    """A path that is refused; *reason* stands in docs/reference/errors.md."""

    def __init__(self, reason: bytes, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Root:
    """A folder that callers may reach, and the names it goes by.

    Args:
        shown: its path as callers see it.
        real: its path as the code sees it; the same unless nothing isolates.

    """

    def __init__(self, shown: bytes, real: bytes) -> None:
        self.shown = shown
        self.names = {tuple(_parts(shown)), tuple(_parts(real))}
        self.descriptor = os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class Place:
    """Where a path leads: *name* beneath the open folder *parent*.

    The name of a root itself is `.`. `close` releases the folder.
    """

    __slots__ = ("name", "parent", "path")

    def __init__(self, parent: int, name: bytes, path: bytes) -> None:
        self.parent, self.name, self.path = parent, name, path

    @property
    def is_root(self) -> bool:
        """Whether it is one of the roots itself."""
        return self.name == b"."

    def close(self) -> None:
        """Release the folder."""
        os.close(self.parent)

    def __enter__(self) -> Place:  # noqa: D105, PYI034
        return self

    def __exit__(self, *_: object) -> None:  # noqa: D105
        self.close()


def find(roots: list[Root], path: bytes, *, follow: bool, make: bool = False) -> Place:
    """Find *path*, whose last name need not exist.

    Args:
        roots: the folders within which all of it must stay; a relative path starts
            at the first.
        path: as the caller gave it.
        follow: whether a symlink in the last place is followed.
        make: whether missing folders on the way are made.

    Raises:
        PathError: it leads outside, or cannot be a path.
        OSError: a folder on the way is missing or closed to us.

    """
    if not path or len(path) > _MAX_PATH or b"\0" in path:
        raise PathError(b"INVALID_PATH", "a path has 1 to 4,096 bytes without NUL")
    walk = _Walk(roots, follow, make)
    try:
        return walk.to(path)
    finally:
        walk.close()


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


class _Walk:
    """One walk; *stack* holds the open folders from the root down to here."""

    def __init__(self, roots: list[Root], follow: bool, make: bool) -> None:  # noqa: FBT001
        self._roots, self._follow, self._make = roots, follow, make
        self._stack: list[tuple[bytes, int]] = []
        self._root = roots[0]
        self._above: list[bytes] = []  # where we are, while outside all roots
        self._links = 0

    def close(self) -> None:
        for _, descriptor in self._stack[1:]:
            os.close(descriptor)
        self._stack = []

    def to(self, path: bytes) -> Place:
        ahead = self._start(path)
        while ahead:
            part = ahead.pop(0)
            if part == b"..":
                self._up()
            elif not self._stack:
                self._enter(part)
            else:
                target = self._link(part, last=not ahead)
                if target is not None:
                    ahead = self._jump(target) + ahead
                elif ahead:
                    self._down(part)
                else:
                    return self._place(part)
        if not self._stack:
            raise _outside()
        return self._here()

    def _start(self, path: bytes) -> list[bytes]:
        if not path.startswith(b"/"):
            self._stack = [(b"", self._root.descriptor)]
        return _parts(path)

    def _enter(self, part: bytes) -> None:
        """Go from above the roots towards one of them."""
        self._above.append(part)
        here = tuple(self._above)
        for root in self._roots:
            if here in root.names:
                self._root = root
                self._stack = [(b"", root.descriptor)]
                return
        if not any(
            names[: len(here)] == here for root in self._roots for names in root.names
        ):
            raise _outside()

    def _up(self) -> None:
        if len(self._stack) > 1:
            os.close(self._stack.pop()[1])
        elif self._stack:
            self._stack = []
            self._above = _parts(self._root.shown)[:-1]
        elif self._above:
            self._above.pop()

    def _link(self, part: bytes, *, last: bool) -> bytes | None:
        """Tell where the symlink *part* points, unless it is none or not followed."""
        if last and not self._follow:
            return None
        try:
            target = os.readlink(part, dir_fd=self._stack[-1][1])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise
        self._links += 1
        if self._links > _MAX_LINKS:
            raise PathError(b"INVALID_PATH", "too many symlinks")
        return target

    def _jump(self, target: bytes) -> list[bytes]:
        if target.startswith(b"/"):
            self.close()
            self._above = []
        return _parts(target)

    def _down(self, part: bytes) -> None:
        parent = self._stack[-1][1]
        try:
            descriptor = os.open(part, _STEP, dir_fd=parent)
        except FileNotFoundError:
            if not self._make:
                raise
            os.mkdir(part, 0o755, dir_fd=parent)
            descriptor = os.open(part, _STEP, dir_fd=parent)
        self._stack.append((part, descriptor))
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")

    def _place(self, name: bytes) -> Place:
        return Place(os.dup(self._stack[-1][1]), name, self._shown(name))

    def _here(self) -> Place:
        """Name the folder that a path ending in `..` or a symlink to `.` leads to."""
        if len(self._stack) == 1:
            return Place(os.dup(self._stack[0][1]), b".", self._root.shown)
        name, descriptor = self._stack.pop()
        os.close(descriptor)
        return self._place(name)

    def _shown(self, name: bytes) -> bytes:
        names = [part for part, _ in self._stack[1:]]
        return b"/".join([self._root.shown, *names, name])


def _outside() -> PathError:
    return PathError(
        b"PATH_OUTSIDE_WORKSPACE", "only /workspace and /tmp can be reached"
    )
