"""Hear at once that files may have changed, by inotify on their directories.

Built on watchdog's inotify descriptor and not on its ``Observer``: that one holds
back the first half of a rename for up to half a second to pair it with the second,
which on a busy machine makes one change in a hundred come late.

Source: inotify(7).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Final, Self

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyFD,
    Mask,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from watchdog.observers.inotify_c import InotifyEvent, WatchDescriptor

__all__ = ["Watch"]

_log = logging.getLogger(__name__)

_MASK: Final = Mask(
    InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVE
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
)
_MAX_LINKS: Final = 40  # as the kernel follows
_ANY: Final = "*"  # every name in a folder


class Watch:
    """Calls *changed* on the event loop when any of *files* may have changed.

    So it does for every file in *folder*, whichever there are. It may call too
    often, never too seldom while `arm` follows each change. Where the system gives
    no inotify it says so in the log, tries again at each `arm`, and somebody has
    to poll.
    """

    def __init__(
        self,
        files: Iterable[Path],
        changed: Callable[[], None],
        folder: Path | None = None,
    ) -> None:
        self._files = tuple(path.absolute() for path in files)
        self._folder = folder.absolute() if folder else None
        self._changed = changed
        self._ids = map(CallbackId, count())
        self._armed: list[tuple[WatchDescriptor, CallbackId]] = []
        self._names: dict[WatchDescriptor, set[bytes]] = {}  # that matter, by folder
        self._kernel: InotifyFD | None = None
        self._deaf = self._ended = False
        self._lock = threading.Lock()  # a thread may still arm when we end

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.stop()
            kernel.join()

    def arm(self) -> None:
        """Watch where the paths lead now; call it before each look at the files.

        Blocks on file I/O. The new watches are in place before the old ones go:
        nothing slips between.
        """
        spots = set(self._spots())
        with self._lock:
            if not self._ended:
                self._say_deaf(self._arm(spots))

    def _arm(self, spots: Iterable[tuple[Path, str]]) -> OSError | None:
        """Watch *spots* and no others; return what kept us from one of them."""
        fault: OSError | None = None
        try:
            kernel = self._kernel = self._kernel or _started()
        except OSError as error:
            return error
        names: dict[WatchDescriptor, set[bytes]] = {}
        stale, self._armed = self._armed, []
        for folder, name in spots:
            number = next(self._ids)
            try:
                watch = kernel.add_callback(os.fsencode(folder), _MASK, self, number)
            except OSError as error:
                fault = error
            else:
                self._armed.append((watch, number))
                names.setdefault(watch, set()).add(os.fsencode(name))
        self._names = names
        with suppress(OSError):  # one that went with its folder
            kernel.remove_callbacks(stale)
        # watchdog says nothing of a folder that we may not read
        return PermissionError("permission denied") if -1 in names else fault

    # What the thread of the kernel's descriptor calls.

    def on_event(self, event: InotifyEvent) -> None:
        """Tell of an event about one of our files; without a name it may be."""
        names = self._names.get(event.wd, set())
        if not event.name or event.name in names or os.fsencode(_ANY) in names:
            self._tell()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Do nothing: of the end of a folder `on_event` has told."""

    def on_queue_overflow(self) -> None:
        """Tell that anything may have happened."""
        self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop has ended before us
            self._loop.call_soon_threadsafe(self._changed)

    def _say_deaf(self, fault: OSError | None) -> None:
        if fault is not None and not self._deaf:
            fields = {"detail": f"files are followed by polling only ({fault})"}
            _log.warning("inotify is not to be had", extra=fields)
        self._deaf = fault is not None

    def _spots(self) -> Iterator[tuple[Path, str]]:
        for path in self._files:
            yield from _spots(path)
        if self._folder is not None:
            yield from _spots(self._folder / _ANY)
            with suppress(OSError):  # it may come yet
                for path in self._folder.iterdir():
                    yield from _spots(path)


def _started() -> InotifyFD:
    kernel = InotifyFD()
    kernel.start()
    return kernel


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
