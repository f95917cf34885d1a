"""The values that this room speaks of: sessions, their owners, their isolation."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from workloadmanager._contents import Contents

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Isolation", "Owner", "Session", "Start", "State", "Wish", "milliseconds"]


class State(enum.IntEnum):
    """Where a session is in its life; the numbers are those of the wire."""

    STARTING = 1
    READY = 2
    ENDED = 3


class Start(enum.IntEnum):
    """How the sandbox of a session came to be; the numbers are those of the wire."""

    COLD = 1  # made for it
    WARM = 2  # made ahead


@dataclass(frozen=True, slots=True)
class Owner:
    """A caller as the Router proved it; *display* takes no part in comparisons."""

    issuer: str
    subject: str
    display: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Isolation:
    """What really separates a sandbox's code from the host."""

    level: str
    uid: int
    own_uid: bool
    limits: Mapping[str, int] = field(default_factory=dict)
    limits_by: str = ""
    network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session and the sandbox behind it; times are UTC, whole milliseconds."""

    session_id: str
    sandbox_id: str
    namespace: str
    template: str
    owner: Owner
    state: State
    created_at: datetime
    expires_at: datetime
    latest_expiry: datetime
    idle_timeout: timedelta
    last_activity: datetime
    address: str = ""
    spiffe_id: str = ""
    isolation: Isolation | None = None
    start: Start | None = None
    record: str = ""
    last_fault: str = ""
    ended_at: datetime | None = None
    ended_by: str = ""

    @property
    def idle_at(self) -> datetime:
        """When it ends unless somebody uses it before."""
        return self.last_activity + self.idle_timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller asks of a new session.

    *environment* and *contents* are never kept.
    """

    owner: Owner
    namespace: str
    template: str
    request_id: str = ""
    lifetime: timedelta | None = None
    idle_timeout: timedelta | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    contents: Contents = field(default_factory=Contents)


def milliseconds(moment: datetime) -> datetime:
    """Return *moment* in UTC without its fraction of a millisecond, as it is stored."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
