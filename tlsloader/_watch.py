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
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Self

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

_MASK = Mask(
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
_MAX_LINKS = 40  # as the kernel follows


class Watch:
    """Calls *changed* on the event loop when any of *paths* may have changed.

    May call it too often, never too seldom while `arm` follows each change. Where
    the system gives no inotify it says so in the log and somebody has to poll.
    """

    def __init__(self, paths: Iterable[Path], changed: Callable[[], None]) -> None:
        self._paths = tuple(path.absolute() for path in paths)
        self._changed = changed
        self._ids = map(CallbackId, count())
        self._armed: list[tuple[WatchDescriptor, CallbackId]] = []
        self._names: dict[WatchDescriptor, set[bytes]] = {}  # that matter, by folder
        self._kernel: InotifyFD | None = None
        self._deaf = False

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            self._kernel = InotifyFD()
        except OSError as error:
            self._say_deaf(error)
        else:
            self._kernel.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._kernel is not None:
            self._kernel.stop()
            self._kernel.join()
            self._kernel = None

    def arm(self) -> None:
        """Watch where the paths lead now; call it before each look at the files.

        The new watches are in place before the old ones go: nothing slips between.
        """
        if self._kernel is None:
            return
        names: dict[WatchDescriptor, set[bytes]] = {}
        stale, self._armed = self._armed, []
        for folder, name in {spot for path in self._paths for spot in _spots(path)}:
            number = next(self._ids)
            try:
                place = os.fsencode(folder)
                watch = self._kernel.add_callback(place, _MASK, self, number)
            except OSError as error:
                self._say_deaf(error)
            else:
                self._armed.append((watch, number))
                names.setdefault(watch, set()).add(os.fsencode(name))
        self._names = names
        with suppress(OSError):  # one that went with its folder
            self._kernel.remove_callbacks(stale)

    # What the thread of the kernel's descriptor calls.

    def on_event(self, event: InotifyEvent) -> None:
        """Tell of an event about one of our files; without a name it may be."""
        if not event.name or event.name in self._names.get(event.wd, ()):
            self._tell()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Tell that a folder has gone."""
        del wd
        self._tell()

    def on_queue_overflow(self) -> None:
        """Tell that anything may have happened."""
        self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop has ended before us
            self._loop.call_soon_threadsafe(self._changed)

    def _say_deaf(self, error: OSError) -> None:
        if not self._deaf:
            self._deaf = True
            fields = {"detail": f"files are followed by polling only ({error})"}
            _log.warning("inotify is not to be had", extra=fields)


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
