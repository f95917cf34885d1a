"""Long lists in pages, oldest first; what comes meanwhile shifts nothing."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from workloadmanager._errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workloadmanager._values import Session

__all__ = ["Page", "page"]


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions, and what to ask for the next ones; empty: there are none."""

    sessions: list[Session]
    next: str


def page(sessions: Iterable[Session], *, size: int, token: str) -> Page:
    """Return the first *size* of *sessions* behind those that *token* tells of.

    Raises:
        InvalidRequestError: the token is none of ours.
    """
    after = _read_token(token) if token else None
    rest = [each for each in sessions if after is None or _key(each) > after]
    rest.sort(key=_key)
    part = rest[:size]
    return Page(part, _write_token(_key(part[-1])) if len(rest) > size else "")


def _key(session: Session) -> tuple[datetime, str]:
    return session.created_at, session.session_id


def _write_token(key: tuple[datetime, str]) -> str:
    text = f"{key[0].isoformat()} {key[1]}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_token(token: str) -> tuple[datetime, str]:
    try:
        text = base64.urlsafe_b64decode(token.encode()).decode()
        moment, _, session_id = text.partition(" ")
        after = datetime.fromisoformat(moment)
    except ValueError:
        after, session_id = None, ""
    if after is None or after.tzinfo is None:
        raise InvalidRequestError("page_token", "is none of ours")
    return after, session_id
