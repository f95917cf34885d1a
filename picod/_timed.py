"""What of a call is the runner's time, and what that of the code, told in traces."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from serving import begun

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

T = TypeVar("T")

__all__ = ["timed"]


def timed(events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Return *events*; the first says that the code runs, the end that it is over."""
    started = begun("picod.runner")
    return events if started is None else _timed(events, started)


async def _timed(
    events: AsyncGenerator[T, None], started: Callable[[], None]
) -> AsyncGenerator[T, None]:
    ended: Callable[[], None] | None = None
    try:
        async with aclosing(events):
            async for event in events:
                if ended is None:
                    started()
                    ended = begun("picod.code")
                yield event
    finally:
        (ended or started)()
