"""What Routers watch: a snapshot of the sessions, then every change."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from clock import SYSTEM, Clock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from workloadmanager._engine import Sandbox
    from workloadmanager._values import Session

__all__ = [
    "ActivityQuery",
    "Changed",
    "Event",
    "Feed",
    "Heartbeat",
    "Snapshot",
    "Waiting",
]

_BATCH = 500  # sessions in one message of a snapshot
_HISTORY = 8192  # changes that a Router may have missed and still resume
_QUERIES = 8192  # questions that one slow Router may have waiting


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Part of all live sessions; *complete* says that it is the last part."""

    revision: int
    sessions: Sequence[Session]
    complete: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """The new state of one session."""

    revision: int
    session: Session


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """We live; nothing before *revision* is still to come."""

    revision: int


@dataclass(frozen=True, slots=True)
class ActivityQuery:
    """Is this session in use? Tell by a touch."""

    revision: int
    session_id: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """All sandboxes now that wait for a session and may be dialled ahead of it."""

    revision: int
    sandboxes: Sequence[Sandbox]


Event = Snapshot | Changed | Heartbeat | ActivityQuery | Waiting


class _Watcher:
    """One Router's place in the feed."""

    __slots__ = ("behind", "cursor", "queries", "wake")

    def __init__(self, cursor: int, *, behind: bool) -> None:
        self.cursor = cursor
        self.behind = behind  # about the sandboxes that wait
        self.queries: deque[str | None] = deque(maxlen=_QUERIES)  # None: a heartbeat
        self.wake = asyncio.Event()


class Feed:
    """Changes in order, numbered; a watcher that falls behind starts afresh.

    Watchers share one bounded history, so that a slow one costs nothing. Revisions
    start at the time in milliseconds: those of an earlier process are never taken
    for ours.
    """

    def __init__(
        self,
        live: Callable[[], Sequence[Session]],
        *,
        clock: Clock = SYSTEM,
        history: int = _HISTORY,
    ) -> None:
        self._live = live
        self._clock = clock
        self._history: deque[Changed] = deque(maxlen=history)
        self._watchers: set[_Watcher] = set()
        self._closed = False
        self._waiting: Sequence[Sandbox] = ()
        self.revision = int(clock.now().timestamp() * 1000)

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    def publish(self, session: Session) -> None:
        """Tell everybody the new state of *session*."""
        self.revision += 1
        self._history.append(Changed(self.revision, session))
        self._wake()

    def tell_waiting(self, sandboxes: Sequence[Sandbox]) -> None:
        """Tell everybody which sandboxes wait; only the last word counts."""
        self._waiting = sandboxes
        for watcher in self._watchers:
            watcher.behind = True
        self._wake()

    def ask(self, session_id: str) -> None:
        """Ask everybody who watches now whether the session is in use."""
        for watcher in self._watchers:
            watcher.queries.append(session_id)
        self._wake()

    async def beat(self, every: float = 5.0) -> NoReturn:
        """Send a heartbeat every so many seconds, until cancelled."""
        while True:
            await self._clock.sleep(every)
            for watcher in self._watchers:
                watcher.queries.append(None)
            self._wake()

    def close(self) -> None:
        """End all watching, now and later."""
        self._closed = True
        self._wake()

    async def watch(self, resume: int = 0) -> AsyncGenerator[Event, None]:
        """Yield what came after revision *resume*, or a snapshot, then what comes."""
        watcher = _Watcher(resume, behind=bool(self._waiting))
        self._watchers.add(watcher)
        try:
            if self._reaches(resume):
                yield Heartbeat(resume)
            while not self._closed:
                watcher.wake.clear()
                for event in self._news(watcher):
                    yield event
                if not watcher.wake.is_set():
                    await watcher.wake.wait()
        finally:
            self._watchers.discard(watcher)

    def _news(self, watcher: _Watcher) -> Iterator[Event]:
        if not self._reaches(watcher.cursor):
            yield from self._snapshot(watcher)
        while watcher.cursor < self.revision:
            if not self._reaches(watcher.cursor):  # the reader was too slow
                yield from self._snapshot(watcher)
                continue
            change = self._history[watcher.cursor - self.revision]
            watcher.cursor = change.revision
            yield change
        if watcher.behind:
            watcher.behind = False
            yield Waiting(watcher.cursor, self._waiting)
        while watcher.queries:
            session_id = watcher.queries.popleft()
            if session_id is None:
                yield Heartbeat(watcher.cursor)
            else:
                yield ActivityQuery(watcher.cursor, session_id)

    def _reaches(self, revision: int) -> bool:
        return self.revision - len(self._history) <= revision <= self.revision

    def _snapshot(self, watcher: _Watcher) -> Iterator[Snapshot]:
        sessions, revision = self._live(), self.revision
        watcher.cursor = revision
        for start in range(0, len(sessions) or 1, _BATCH):
            part = sessions[start : start + _BATCH]
            complete = start + _BATCH >= len(sessions)
            yield Snapshot(revision, part, complete)

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.wake.set()
