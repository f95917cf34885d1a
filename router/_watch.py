"""Follow the WorkloadManager's feed of sessions, for as long as the Router lives."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from cubemesh.v1 import workloadmanager_pb2 as wm
from router._registry import session_of
from router._sessions import Door

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clock import Clock
    from router._locator import Locator
    from router._registry import Registry
    from router._sessions import Sessions

__all__ = ["Watch"]

# A heartbeat comes every 5 s; after three that did not, the stream is dead.
_SILENCE = 15.0
_LOOK = 2.5
_PAUSE = 0.5

_log = logging.getLogger("router")


class Watch:
    """Feeds *sessions* from *registry*; *queried* gets the ids that look idle."""

    def __init__(
        self,
        registry: Registry,
        sessions: Sessions,
        locator: Locator,
        queried: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._registry, self._sessions, self._locator = registry, sessions, locator
        self._queried, self._clock = queried, clock
        self.revision = 0
        self.begun = asyncio.Event()
        self._last = clock.monotonic()
        self._call: Any = None
        self._waiting: Callable[[Iterable[Door]], None] = lambda _: None
        self.restarts = 0

    def on_waiting(self, listener: Callable[[Iterable[Door]], None]) -> None:
        """Call *listener* with the doors of all sandboxes that wait for a session."""
        self._waiting = listener

    async def follow(self) -> NoReturn:
        """Watch; begin again whenever the stream ends."""
        while True:
            try:
                await self._watch_once()
            except grpc.aio.AioRpcError as error:
                _log.warning(
                    "watch lost",
                    extra={"code": error.code().name, "detail": error.details()},
                )
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                _log.warning("watch given up", extra={"silence": _SILENCE})
            self.restarts += 1
            await self._clock.sleep(_PAUSE)

    async def supervise(self) -> NoReturn:
        """Give up a stream on which even heartbeats have ceased."""
        while True:
            await self._clock.sleep(_LOOK)
            silent = self._clock.monotonic() - self._last > _SILENCE
            if self._call is not None and silent:
                self._call.cancel()

    async def _watch_once(self) -> None:
        self._sessions.begin_watch()
        self._last = self._clock.monotonic()
        self._call = self._registry.watch(self.revision)
        try:
            async for message in self._call:
                self._last = self._clock.monotonic()
                self._locator.heard()
                self._take(message)
        finally:
            self._call.cancel()
            self._call = None

    def _take(self, message: wm.WatchSessionsResponse) -> None:
        match message.WhichOneof("event"):
            case "snapshot":
                self._take_snapshot(message.snapshot)
                if not message.snapshot.complete:
                    return
                self.begun.set()
            case "changed":
                self._take_change(message.changed)
            case "activity_query":
                self._queried(message.activity_query.session_id)
                return
            case "waiting":
                sandboxes = message.waiting.sandboxes
                self._waiting(Door(each.address, each.spiffe_id) for each in sandboxes)
                return
            case _:
                pass
        self.revision = message.revision

    def _take_snapshot(self, part: wm.WatchSessionsResponse.Snapshot) -> None:
        sessions = [session_of(each) for each in part.sessions]
        ready = [each for each in sessions if each is not None]
        self._sessions.snapshot(ready, complete=part.complete)

    def _take_change(self, changed: wm.SandboxSession) -> None:
        if changed.state == wm.SESSION_STATE_ENDED:
            self._sessions.end(changed.session_id)
        elif (session := session_of(changed)) is not None:
            self._sessions.changed(session)
