"""Sandboxes made ahead, so that a session finds one that only has to be bound."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NoReturn

from clock import SYSTEM, Clock
from workloadmanager._endings import destroy
from workloadmanager._pool import Pool
from workloadmanager._timers import sleep_unless

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from workloadmanager._demand import Capacity
    from workloadmanager._engine import Engine, Sandbox
    from workloadmanager._templates import Template, Templates

__all__ = ["Pools"]

_LOOK: Final = 5.0
_CORES: Final = len(os.sched_getaffinity(0))
_TOLD: Final = 64  # of those that wait, more or less
_AT_ONCE: Final = max(1, _CORES // 2)  # ahead of need

_log = logging.getLogger(__name__)


class Pools:
    """Blank sandboxes by template, and who may make one next.

    What somebody waits for goes first, some at a time; meanwhile nothing is made
    ahead. *taken* tells how many sandboxes there are beside ours.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        templates: Templates,
        taken: Callable[[], int],
        capacity: Capacity,
        clock: Clock = SYSTEM,
    ) -> None:
        self._engine, self._templates, self._clock = engine, templates, clock
        self._taken, self._capacity = taken, capacity
        self._pools: dict[str, Pool] = {}
        self._places = asyncio.Semaphore(2 * _CORES)
        self._urgent = 0
        self._leaving: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._told: tuple[Sandbox, ...] = ()
        self._tell: Callable[[Sequence[Sandbox]], None] = lambda _: None
        self.failures: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._pools.values())) + len(self._leaving)

    @property
    def ready(self) -> Mapping[str, int]:
        """How many are ready, by template."""
        return {name: len(each.ready) for name, each in [*self._pools.items()]}

    def watch(self, tell: Callable[[Sequence[Sandbox]], None]) -> None:
        """Have *tell* called with those that are claimed next whenever they change."""
        self._tell = tell

    @asynccontextmanager
    async def urgent(self) -> AsyncIterator[None]:
        """Make a sandbox that somebody waits for; the block begins when it may."""
        self._urgent += 1
        try:
            async with self._places:
                yield
        finally:
            self._urgent -= 1
            self._news.set()

    def claim(self, template: Template) -> Sandbox | None:
        """Take out a blank sandbox for good; ``None``: there is none ready."""
        pool = self._pools.get(template.name)
        if pool is None or pool.template != template:
            return None
        self._news.set()
        return pool.claim(self._clock.monotonic())

    async def make_room(self) -> None:
        """Give up so many that there are at most as many sandboxes as may be."""
        while (over := self._taken() + len(self) - self._capacity.limit) > 0:
            if over > len(self._leaving):
                self._give_one_up()
            if not self._leaving:
                return
            await asyncio.wait(self._leaving, return_when=asyncio.FIRST_COMPLETED)

    def died(self, sandbox_id: str, reason: str) -> None:
        """Note that a sandbox ended by itself; ones that are not here are fine."""
        for pool in self._pools.values():
            if (sandbox := pool.remove(sandbox_id)) is not None:
                self._failed(pool, sandbox_id, reason)
                record = sandbox.record  # its log stays: it may say why
                self._let_go(destroy(self._engine, sandbox_id, record, self._clock))

    async def keep(self, tasks: asyncio.TaskGroup) -> NoReturn:
        """Fill and drain until cancelled; then all that nobody has claimed goes."""
        self._tasks = tasks
        try:
            while True:
                self._news.clear()
                wait = self._tend(self._clock.monotonic())
                self._tell_news()
                await sleep_unless(self._news, wait, self._clock)
        finally:
            self._tasks = None
            await self._end()

    def _tend(self, now: float) -> float:
        """Do what is to be done now; return when to look again, in seconds."""
        wanted = {each.name: each for each in self._templates}
        for name, pool in [*self._pools.items()]:
            if wanted.get(name) != pool.template:
                self._drop(self._pools.pop(name))
        for name, template in wanted.items():
            if name not in self._pools:
                bounds = self._capacity.ready.or_rather(
                    template.min_ready, template.max_ready
                )
                self._pools[name] = Pool(template, bounds)
        for pool in self._pools.values():
            for _ in range(pool.surplus(now)):
                self._retire(pool.ready.popleft())
        return self._fill(now)

    def _tell_news(self) -> None:
        pools = [pool for pool in self._pools.values() if pool.ready]
        share = -(-_TOLD // len(pools)) if pools else 0
        told = tuple(each for pool in pools for each in islice(pool.ready, share))
        if told != self._told:
            self._told = told
            self._tell(told)

    def _fill(self, now: float) -> float:
        """Begin what may be made now; return when to look again, in seconds."""
        while True:
            due = {pool: pool.next_making(now) for pool in self._pools.values()}
            soonest = min(due.values(), default=now + _LOOK)
            if soonest > now:
                return min(soonest - now, _LOOK)
            if not self._may_begin or self._tasks is None:
                return _LOOK
            pool = min((each for each in due if due[each] <= now), key=len)
            self._begin(pool, self._tasks)

    @property
    def _may_begin(self) -> bool:
        """Whether nobody waits who would be held up, and there is room."""
        making = sum(len(pool.making) for pool in self._pools.values())
        full = self._taken() + len(self) >= self._capacity.limit
        return not (self._urgent or full or making >= _AT_ONCE)

    def _begin(self, pool: Pool, tasks: asyncio.TaskGroup) -> None:
        task = tasks.create_task(self._make(pool))
        pool.making.add(task)
        task.add_done_callback(pool.making.discard)
        task.add_done_callback(self._gone)

    async def _make(self, pool: Pool) -> None:
        sandbox_id = self._engine.reserve()
        try:
            sandbox = await self._engine.make(sandbox_id, pool.template)
        except asyncio.CancelledError:
            await destroy(self._engine, sandbox_id, "", self._clock)
            raise
        except Exception as error:  # noqa: BLE001  # tried again after a while
            reason = getattr(error, "detail", "") or str(error)
            self._failed(pool, sandbox_id, reason)
            await destroy(self._engine, sandbox_id, "", self._clock)
        else:
            pool.succeeded()
            pool.ready.append(sandbox)

    def _failed(self, pool: Pool, sandbox_id: str, reason: str) -> None:
        name = pool.template.name
        self.failures[name] += 1
        fields = {"template": name, "sandbox_id": sandbox_id, "reason": reason}
        pause = pool.failed(self._clock.monotonic())
        _log.warning("nothing made ahead", extra={**fields, "pause": pause})

    def _give_one_up(self) -> None:
        pool = max(self._pools.values(), key=len, default=None)
        if pool is None:
            return
        if pool.ready:
            self._retire(pool.ready.popleft())
        elif pool.making:
            self._cancel(pool)

    def _drop(self, pool: Pool) -> None:
        """Give all up that a template stood for which is not there any more."""
        while pool.ready:
            self._retire(pool.ready.popleft())
        while pool.making:
            self._cancel(pool)

    def _cancel(self, pool: Pool) -> None:
        task = pool.making.pop()
        self._leaving.add(task)
        task.cancel()

    def _retire(self, sandbox: Sandbox) -> None:
        self._let_go(self._remove(sandbox))

    def _let_go(self, ending: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:  # the next start finds and ends it
            ending.close()
            return
        task = self._tasks.create_task(ending)
        self._leaving.add(task)
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        self._news.set()

    async def _end(self) -> None:
        ready: list[Sandbox] = []
        for pool in self._pools.values():
            ready += pool.ready
            pool.ready.clear()
            for task in pool.making:
                task.cancel()
        async with asyncio.TaskGroup() as ending:
            for each in ready:
                ending.create_task(self._remove(each))

    async def _remove(self, sandbox: Sandbox) -> None:
        """End a sandbox that never had a session; nobody will ask about it."""
        sandbox_id = sandbox.sandbox_id
        await destroy(self._engine, sandbox_id, sandbox.record, self._clock)
        self._engine.forget(sandbox_id)
