"""Tell the WorkloadManager which sessions are in use, so that none ends too early."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from cubemesh.v1 import workloadmanager_pb2 as wm
from router._errors import RouterError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from clock import Clock
    from router._channels import Channels, Upstream
    from router._registry import Registry

__all__ = ["Touches"]

_PERIOD = 0.8
_BATCH = 10_000

_log = logging.getLogger("router")


class Touches:
    """Reports the use of upstreams: what changed each second, what is asked at once."""

    def __init__(self, channels: Channels, registry: Registry, clock: Clock) -> None:
        self._channels, self._registry, self._clock = channels, registry, clock
        self._asked: set[str] = set()
        self._wake = asyncio.Event()

    def query(self, session_id: str) -> None:
        """Note that the WorkloadManager believes this session to be idle."""
        self._asked.add(session_id)
        self._wake.set()

    async def report(self) -> NoReturn:
        """Tell what is in use, more than once a second."""
        while True:
            await self._clock.sleep(_PERIOD)
            await self._tell(each for each in self._channels if each.news)

    async def answer(self) -> NoReturn:
        """Answer questions about single sessions at once."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, set()
            found = (self._channels.get(each) for each in asked)
            await self._tell(each for each in found if each is not None)

    async def _tell(self, upstreams: Iterable[Upstream]) -> None:
        now = self._clock.now()
        states = [
            (each, now if each.open else each.used, each.open) for each in upstreams
        ]
        for start in range(0, len(states), _BATCH):
            batch = states[start : start + _BATCH]
            try:
                await self._registry.touch([_touch(*state) for state in batch])
            except RouterError as error:
                _log.warning("use not told", extra={"detail": str(error)})
                return
            for upstream, used, calls in batch:
                upstream.told = used, calls


def _touch(
    upstream: Upstream, used: datetime, calls: int
) -> wm.TouchSessionsRequest.Touch:
    touch = wm.TouchSessionsRequest.Touch(
        session_id=upstream.session_id, open_calls=calls
    )
    touch.last_activity.FromDatetime(used)
    return touch
