"""One session being made, for all who wait for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloadmanager._values import Session

__all__ = ["Birth"]


@dataclass(slots=True, eq=False)
class Birth:
    """What becomes of one wish; *outcome* is for all who wait."""

    outcome: asyncio.Future[Session]
    waiting: int = 0
    task: asyncio.Task[None] | None = None
    made: Session | None = None
    stopped_by: str = ""
    undoing: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self, why: str) -> None:
        """Undo it, once: what undoes it must not be stopped in turn."""
        if not self.stopped_by:
            self.stopped_by = why
            if self.task is not None and not self.undoing:
                self.task.cancel()
