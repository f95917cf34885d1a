"""The event loop in a background thread, and the way to it for callers that block."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from cubemesh._commands import ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")
_STOP = 5.0  # seconds that the end of the program waits for calls under way


class Portal:
    """Runs coroutines for threads that wait."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="cubemesh", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* to its end and return what it returns.

        Meanwhile this thread runs the callbacks that *work* asks for. Whatever
        interrupts it here, Ctrl-C too, cancels *work*, waits for its end and is raised.
        """
        if threading.current_thread() is self._thread:
            work.close()
            message = "this would wait for itself; use AsyncSandbox in coroutines"
            raise RuntimeError(message)
        errand = _Errand(self._loop, work)
        try:
            errand.wait()
        except BaseException:
            errand.cancel()
            raise
        result: T = errand.task.result()
        return result

    def stop(self) -> None:
        """Cancel what runs and end the thread."""

        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=_STOP) if others else None

        asyncio.run_coroutine_threadsafe(cancel(), self._loop).result(_STOP)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP)
        self._loop.close()


class _Errand:
    """One coroutine on its way through the portal."""

    task: asyncio.Task[Any]

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]
    ) -> None:
        self._loop = loop
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._context = copy_context()
        self._context.run(ELSEWHERE.set, self._elsewhere)
        loop.call_soon_threadsafe(self._start, work)

    def wait(self) -> None:
        while (job := self._queue.get()) is not None:
            job()

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)
        while self._queue.get() is not None:
            pass  # callbacks of a call that is cancelled are not wanted any more

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        self.task = self._loop.create_task(work, context=self._context)
        self.task.add_done_callback(lambda _: self._queue.put(None))

    def _cancel(self) -> None:
        self.task.cancel()

    def _elsewhere(self, job: Callable[[], object]) -> Awaitable[object]:
        done = self._loop.create_future()

        def run() -> None:
            job()
            self._loop.call_soon_threadsafe(_settle, done)

        self._queue.put(run)
        return done


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def portal() -> Portal:
    """Return this process's portal; a forked child gets its own."""
    return _portal_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _portal_of(_process: int) -> Portal:
    made = Portal()
    atexit.register(made.stop)
    return made
