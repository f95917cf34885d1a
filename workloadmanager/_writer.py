"""One SQLite file, one thread: whatever waits is committed together."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from workloadmanager._errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["Writer"]

T = TypeVar("T")
_LARGEST_GROUP = 256


class _Work:
    """One piece of work, and where its outcome goes."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.done():  # the caller has gone
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Writer:
    """Runs pieces of work on one connection, in the order they come.

    Each is undone alone if it fails; those that wait are committed in one
    transaction, and nobody hears of success before the commit.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self.commits = 0

    @classmethod
    def open(cls, path: Path, migrations: Sequence[str]) -> Self:
        """Open or make the file at *path*, bring it to the newest version, start.

        Raises:
            StateError: the file is broken, newer than we are, or open to others.
        """
        try:
            _make_private(path)
            connection = _connect(path)
            try:
                _migrate(connection, path, migrations)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise StateError(
                f"cannot use the store {path}: {error}",
                "mend or move the file away; sessions in it are lost then",
            ) from error
        writer = cls(connection)
        writer._thread.start()
        return writer

    def run(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Begin *work*; the future has what it returns, once it is committed.

        It is done even if nobody waits for it any more.
        """
        item = _Work(work)
        self._queue.put(item)
        return item.future

    async def close(self) -> None:
        """Finish what waits, then close the file."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        closing = False
        while not closing:
            group = [self._queue.get()]
            with suppress(queue.Empty):
                while len(group) < _LARGEST_GROUP and group[-1] is not None:
                    group.append(self._queue.get_nowait())
            closing = group[-1] is None
            self._commit([item for item in group if item is not None])
        self._connection.close()

    def _commit(self, group: Sequence[_Work]) -> None:
        if not group:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for item in group:
                self._attempt(item)
            self._connection.execute("COMMIT")
            self.commits += 1
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            for item in group:
                item.error = item.error or error
        for item in group:
            with suppress(RuntimeError):  # the loop has gone
                item.loop.call_soon_threadsafe(item.deliver)

    def _attempt(self, item: _Work) -> None:
        self._connection.execute("SAVEPOINT item")
        try:
            item.result = item.work(self._connection)
        except Exception as error:  # noqa: BLE001  # goes to the one who asked
            item.error = error
            self._connection.execute("ROLLBACK TO item")
        self._connection.execute("RELEASE item")


def _make_private(path: Path) -> None:
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise StateError(
            f"others may open the store {path} "
            f"(rights {stat.S_IMODE(found.st_mode):04o}, user {found.st_uid})",
            f"chmod 600 {path}, as its owner",
        )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=5
    )
    connection.row_factory = sqlite3.Row
    # Sessions die with the machine, so a commit need not outlive a power cut.
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[str]
) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StateError(
            f"the store {path} is of version {version}, newer than ours",
            "start a newer CubeMesh, or choose another --state",
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;"
        )
