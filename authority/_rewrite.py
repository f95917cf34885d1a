"""Files that are to follow something: written after each change, however often."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from clock import Clock

__all__ = ["rewrite"]

_RETRY: Final = 1.0

_log = logging.getLogger(__name__)


async def rewrite(
    write: Callable[[], Awaitable[None]], changed: asyncio.Event, clock: Clock
) -> NoReturn:
    """Run *write* each time *changed* is set, until cancelled.

    What cannot be written, say because the disk is full, is logged and tried again.
    """
    while True:
        await changed.wait()
        changed.clear()
        try:
            await write()
        except OSError as error:
            _log.warning("not written", extra={"detail": str(error)})
            changed.set()
            await clock.sleep(_RETRY)
