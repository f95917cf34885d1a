"""Hear at once that files may have changed, by inotify on their directories.

Not by the `watchdog` package: it holds back the first half of a rename for up to
half a second to pair it with the second, and runs three threads for what one
descriptor on the event loop does.

Source: inotify(7).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["Watch"]

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _ONLYDIR = 0x400, 0x800, 0x01000000
_MASK = (
    _MODIFY
    | _ATTRIB
    | _CLOSE_WRITE
    | _MOVED_FROM
    | _MOVED_TO
    | _CREATE
    | _DELETE
    | _DELETE_SELF
    | _MOVE_SELF
    | _ONLYDIR
)
_HEAD = struct.Struct("iIII")  # wd, mask, cookie, length of the name
_READ = 1 << 16
_MAX_LINKS = 40  # as the kernel follows


class Watch:
    """Calls *changed* on the event loop when any of *paths* may have changed.

    May call it too often, never too seldom while `arm` follows each change. Where
    the system gives no inotify, ``working`` is false and somebody has to poll.
    """

    def __init__(self, paths: Iterable[Path], changed: Callable[[], None]) -> None:
        self._paths = tuple(path.absolute() for path in paths)
        self._changed = changed
        self._names: dict[int, set[bytes]] = {}  # what matters, by watch descriptor
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.working = self._fd >= 0

    def __enter__(self) -> Self:
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def arm(self) -> None:
        """Watch where the paths lead now; call it before each look at the files."""
        if self._fd < 0:
            return
        names: dict[int, set[bytes]] = {}
        self.working = True
        for folder, name in {spot for path in self._paths for spot in _spots(path)}:
            place = os.fsencode(folder)
            watch = self._libc.inotify_add_watch(self._fd, place, _MASK)
            if watch < 0:
                self.working = False
            else:
                names.setdefault(watch, set()).add(os.fsencode(name))
        for stale in self._names.keys() - names.keys():
            self._libc.inotify_rm_watch(self._fd, stale)
        self._names = names

    def _read(self) -> None:
        events = b""
        with suppress(BlockingIOError):
            events = os.read(self._fd, _READ)
        if any(self._matters(watch, name) for watch, name in _parsed(events)):
            self._changed()

    def _matters(self, watch: int, name: bytes) -> bool:
        """Say whether an event is about our files; without a name it may be."""
        return not name or name in self._names.get(watch, ())


def _spots(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield each (folder, name) whose change can change what *path* leads to.

    Two levels up, along every link, so that a swapped ``..data`` of Kubernetes and
    a folder made anew are both heard; all else is left to polling.
    """
    for _ in range(_MAX_LINKS):
        for spot in (path, path.parent):
            yield _nearest(spot)
        try:
            path = path.parent / path.readlink()
        except OSError:  # no link: the end of the way
            return


def _nearest(path: Path) -> tuple[Path, str]:
    """Return the innermost existing folder above *path* and what is next in it."""
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    return path.parent, path.name


def _parsed(events: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (watch descriptor, name) of each event in what the kernel gave."""
    position = 0
    while position < len(events):
        watch, _, _, length = _HEAD.unpack_from(events, position)
        position += _HEAD.size + length
        yield watch, events[position - length : position].rstrip(b"\0")
