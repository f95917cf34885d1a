"""What outlives the process: sessions, tombstones, and answered request ids."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from workloadmanager._schema import INSERT, MIGRATIONS, UPDATE, from_row, to_ms, to_row
from workloadmanager._writer import Writer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from pathlib import Path

    from workloadmanager._values import Owner, Session

__all__ = ["REMEMBERED", "Store"]

REMEMBERED = timedelta(hours=24)  # tombstones and request ids


class Store:
    """Sessions in SQLite. Secrets and environment values never come here.

    Every method returns once its change is committed and may raise
    ``sqlite3.Error``, in which case nothing has changed.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or make the store at *path*.

        Raises:
            StateError: it cannot be used.
        """
        return cls(await asyncio.to_thread(Writer.open, path, MIGRATIONS))

    async def close(self) -> None:
        """Finish and close."""
        await self._writer.close()

    @property
    def commits(self) -> int:
        """How many transactions there have been."""
        return self._writer.commits

    def insert(self, session: Session, request_id: str = "") -> asyncio.Future[None]:
        """Begin to keep a new session, and the request id that made it if it has one.

        What is asked for next comes after this, whether somebody waits here or not.
        """

        def work(connection: sqlite3.Connection) -> None:
            row = to_row(session)
            connection.execute(INSERT, row)
            if request_id:
                connection.execute(
                    "INSERT OR REPLACE INTO requests VALUES "
                    "(:owner_issuer, :owner_subject, :request_id, :session_id, "
                    ":created_at)",
                    row | {"request_id": request_id},
                )

        return self._writer.run(work)

    async def save(self, session: Session) -> None:
        """Keep the present values of a session."""
        row = to_row(session)
        await self._writer.run(lambda connection: _execute(connection, UPDATE, row))

    async def remove(self, session_id: str) -> None:
        """Forget a session that never came to be, and its request id."""

        def work(connection: sqlite3.Connection) -> None:
            for table in ("requests", "sessions"):
                statement = f"DELETE FROM {table} WHERE session_id = ?"  # noqa: S608
                connection.execute(statement, (session_id,))

        await self._writer.run(work)

    async def gone(self, session_id: str) -> None:
        """Note that nothing is left of an ended session's sandbox."""
        await self._write(
            "UPDATE sessions SET gone = 1, record = '' WHERE session_id = ?", session_id
        )

    async def release_request(self, session_id: str) -> None:
        """Let the request id that made this session make another."""
        await self._write("DELETE FROM requests WHERE session_id = ?", session_id)

    async def touch(self, activity: Iterable[tuple[str, datetime]]) -> None:
        """Keep when sessions were last used."""
        rows = [(to_ms(moment), session_id) for session_id, moment in activity]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE sessions SET last_activity = ? WHERE session_id = ?", rows
            )

        await self._writer.run(work)

    async def load(self) -> list[Session]:
        """Return all sessions of which something is left to do, oldest first."""

        def work(connection: sqlite3.Connection) -> list[Session]:
            statement = "SELECT * FROM sessions WHERE gone = 0 ORDER BY created_at"
            return [from_row(row) for row in connection.execute(statement)]

        return await self._writer.run(work)

    async def find(self, session_id: str) -> Session | None:
        """Return one session, living or ended."""
        return await self._one(
            "SELECT * FROM sessions WHERE session_id = ?", session_id
        )

    async def find_request(
        self, owner: Owner, request_id: str, since: datetime
    ) -> Session | None:
        """Return the session that this request id has made since then."""
        return await self._one(
            "SELECT sessions.* FROM requests JOIN sessions USING (session_id) WHERE "
            "requests.owner_issuer = ? AND requests.owner_subject = ? "
            "AND request_id = ? AND requests.created_at > ?",
            owner.issuer,
            owner.subject,
            request_id,
            to_ms(since),
        )

    async def purge(self, before: datetime) -> list[str]:
        """Forget what ended before then; return the ids of those sandboxes."""

        def work(connection: sqlite3.Connection) -> list[str]:
            moment = (to_ms(before),)
            connection.execute("DELETE FROM requests WHERE created_at <= ?", moment)
            rows = connection.execute(
                "DELETE FROM sessions WHERE ended_at <= ? AND gone = 1 "
                "RETURNING sandbox_id",
                moment,
            )
            return [row["sandbox_id"] for row in rows]

        return await self._writer.run(work)

    async def _one(self, statement: str, *values: str | int) -> Session | None:
        def work(connection: sqlite3.Connection) -> Session | None:
            row = connection.execute(statement, values).fetchone()
            return None if row is None else from_row(row)

        return await self._writer.run(work)

    async def _write(self, statement: str, *values: str | int) -> None:
        await self._writer.run(
            lambda connection: _execute(connection, statement, values)
        )


def _execute(connection: sqlite3.Connection, statement: str, values: object) -> None:
    run: Callable[..., object] = connection.execute
    run(statement, values)
