"""The tables of the store, how they grew, and rows as values."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from workloadmanager._values import Isolation, Owner, Session, Start, State

if TYPE_CHECKING:
    import sqlite3

__all__ = ["INSERT", "MIGRATIONS", "UPDATE", "from_row", "to_ms", "to_row"]

# One script per version: the n-th brings a file from version n-1 to version n.
# Scripts are never changed once released. Times are UTC milliseconds. There is no
# column for secrets or environment, on purpose.
MIGRATIONS = (
    """
    CREATE TABLE sessions (
        session_id TEXT PRIMARY KEY,
        sandbox_id TEXT NOT NULL UNIQUE,
        namespace TEXT NOT NULL,
        template TEXT NOT NULL,
        owner_issuer TEXT NOT NULL,
        owner_subject TEXT NOT NULL,
        owner_display TEXT NOT NULL,
        state INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        latest_expiry INTEGER NOT NULL,
        idle_timeout INTEGER NOT NULL,
        last_activity INTEGER NOT NULL,
        address TEXT NOT NULL,
        spiffe_id TEXT NOT NULL,
        isolation TEXT NOT NULL,
        record TEXT NOT NULL,
        last_fault TEXT NOT NULL,
        ended_at INTEGER,
        ended_by TEXT NOT NULL,
        gone INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sessions_to_load ON sessions (created_at) WHERE gone = 0;
    CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;
    CREATE TABLE requests (
        owner_issuer TEXT NOT NULL,
        owner_subject TEXT NOT NULL,
        request_id TEXT NOT NULL,
        session_id TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (owner_issuer, owner_subject, request_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX requests_by_session ON requests (session_id);
    CREATE INDEX requests_by_age ON requests (created_at);
    """,
    """
    ALTER TABLE sessions ADD COLUMN start INTEGER;
    """,
)

_COLUMNS = (
    "session_id",
    "sandbox_id",
    "namespace",
    "template",
    "owner_issuer",
    "owner_subject",
    "owner_display",
    "state",
    "created_at",
    "expires_at",
    "latest_expiry",
    "idle_timeout",
    "last_activity",
    "address",
    "spiffe_id",
    "isolation",
    "start",
    "record",
    "last_fault",
    "ended_at",
    "ended_by",
)
INSERT = (
    f"INSERT INTO sessions ({', '.join(_COLUMNS)}) "  # noqa: S608  # our own names
    f"VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
)
UPDATE = (
    f"UPDATE sessions SET {', '.join(f'{n} = :{n}' for n in _COLUMNS[7:])} "  # noqa: S608
    "WHERE session_id = :session_id"
)
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_ms(moment: datetime) -> int:
    """Return *moment* as whole milliseconds since 1970 in UTC."""
    return (moment - _EPOCH) // _MILLISECOND


def to_row(session: Session) -> dict[str, Any]:
    """Return the columns of *session*."""
    return {
        "session_id": session.session_id,
        "sandbox_id": session.sandbox_id,
        "namespace": session.namespace,
        "template": session.template,
        "owner_issuer": session.owner.issuer,
        "owner_subject": session.owner.subject,
        "owner_display": session.owner.display,
        "state": int(session.state),
        "created_at": to_ms(session.created_at),
        "expires_at": to_ms(session.expires_at),
        "latest_expiry": to_ms(session.latest_expiry),
        "idle_timeout": session.idle_timeout // _MILLISECOND,
        "last_activity": to_ms(session.last_activity),
        "address": session.address,
        "spiffe_id": session.spiffe_id,
        "isolation": _isolation_to_text(session.isolation),
        "start": session.start,
        "record": session.record,
        "last_fault": session.last_fault,
        "ended_at": None if session.ended_at is None else to_ms(session.ended_at),
        "ended_by": session.ended_by,
    }


def from_row(row: sqlite3.Row) -> Session:
    """Return the session that *row* holds."""
    return Session(
        session_id=row["session_id"],
        sandbox_id=row["sandbox_id"],
        namespace=row["namespace"],
        template=row["template"],
        owner=Owner(row["owner_issuer"], row["owner_subject"], row["owner_display"]),
        state=State(row["state"]),
        created_at=_from_ms(row["created_at"]),
        expires_at=_from_ms(row["expires_at"]),
        latest_expiry=_from_ms(row["latest_expiry"]),
        idle_timeout=row["idle_timeout"] * _MILLISECOND,
        last_activity=_from_ms(row["last_activity"]),
        address=row["address"],
        spiffe_id=row["spiffe_id"],
        isolation=_isolation_from_text(row["isolation"]),
        start=None if row["start"] is None else Start(row["start"]),
        record=row["record"],
        last_fault=row["last_fault"],
        ended_at=None if row["ended_at"] is None else _from_ms(row["ended_at"]),
        ended_by=row["ended_by"],
    )


def _from_ms(number: int) -> datetime:
    return _EPOCH + number * _MILLISECOND


def _isolation_to_text(isolation: Isolation | None) -> str:
    if isolation is None:
        return ""
    values = [isolation.level, isolation.uid, isolation.own_uid, dict(isolation.limits)]
    return json.dumps([*values, isolation.limits_by, isolation.network])


def _isolation_from_text(text: str) -> Isolation | None:
    return Isolation(*json.loads(text)) if text else None
