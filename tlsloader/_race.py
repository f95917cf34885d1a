"""Try several ways to the same thing, the next one soon, and take what works first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

__all__ = ["RaceLostError", "race"]

_T = TypeVar("_T")


class RaceLostError(Exception):
    """None of the ways led anywhere; ``errors`` says of each why not."""

    def __init__(self, errors: Sequence[BaseException]) -> None:
        super().__init__(f"all {len(errors)} ways failed")
        self.errors = errors


async def race(
    ways: Sequence[Callable[[], Coroutine[Any, Any, _T]]],
    *,
    delay: float,
    drop: Callable[[_T], None],
) -> _T:
    """Return what the first of *ways* to succeed returns.

    Each begins *delay* seconds after the one before, or as soon as all before have
    failed. The others are cancelled; one that succeeds too late is given to *drop*.

    Raises:
        RaceLostError: all have failed.

    Source: RFC 8305, section 5.
    """
    tasks: list[asyncio.Task[_T]] = []
    winner = None
    try:
        for way in ways:
            tasks.append(asyncio.create_task(way()))  # noqa: TID251 -- ended below
            winner = await _first(tasks, delay if len(tasks) < len(ways) else None)
            if winner is not None:
                return winner.result()
        raise RaceLostError([error for each in tasks if (error := each.exception())])
    finally:
        late = [task for task in tasks if task is not winner]
        for task in late:
            task.cancel()
        for result in await asyncio.gather(*late, return_exceptions=True):
            if not isinstance(result, BaseException):
                drop(result)


async def _first(
    tasks: Sequence[asyncio.Task[_T]], seconds: float | None
) -> asyncio.Task[_T] | None:
    """Return who succeeded; nobody if all have failed, or *seconds* are over."""
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    while running := [task for task in tasks if not task.done()]:
        left = None if end is None else max(0.0, end - loop.time())
        done, _ = await asyncio.wait(
            running, timeout=left, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            if task.exception() is None:
                return task
        if not done:
            break
    return None
