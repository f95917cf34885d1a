"""The sandboxes of one template that wait for a session. Decides, makes nothing."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from workloadmanager._demand import Bounds, Demand

if TYPE_CHECKING:
    import asyncio

    from workloadmanager._engine import Sandbox
    from workloadmanager._templates import Template

__all__ = ["Pool"]

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# A refill costs what the first call of the session just made needs, too: it waits
# until nobody has come for a moment, but not for ever if they never cease.
_QUIET, _OVERDUE = 0.05, 0.25
_NEVER: Final = float("inf")


class Pool:
    """What is ready, what is being made, and what more is wanted.

    Times are monotonic seconds.
    """

    def __init__(self, template: Template, bounds: Bounds) -> None:
        self.template = template
        self.ready: deque[Sandbox] = deque()
        self.making: set[asyncio.Task[None]] = set()
        self._demand = Demand(bounds)
        self._pause = _FIRST_PAUSE
        self._resting_until = 0.0
        self._last_claim = -_NEVER
        self._short_since = _NEVER

    def __len__(self) -> int:
        return len(self.ready) + len(self.making)

    def claim(self, now: float) -> Sandbox | None:
        """Take out the one that has waited longest; it never comes back."""
        self._demand.note(now)
        self._last_claim = now
        return self.ready.popleft() if self.ready else None

    def remove(self, sandbox_id: str) -> Sandbox | None:
        """Take out the one of this name, if it is here."""
        for sandbox in self.ready:
            if sandbox.sandbox_id == sandbox_id:
                self.ready.remove(sandbox)
                return sandbox
        return None

    def surplus(self, now: float) -> int:
        """Return how many are ready of which nobody has need."""
        return max(0, len(self.ready) - self._demand.wanted(now))

    def next_making(self, now: float) -> float:
        """Return when one more is to be made; infinity: it is not known yet."""
        if len(self) >= self._demand.wanted(now):
            self._short_since = _NEVER
            return _NEVER
        self._short_since = min(self._short_since, now)
        quiet = min(self._last_claim + _QUIET, self._short_since + _OVERDUE)
        return max(quiet, self._resting_until)

    def succeeded(self) -> None:
        """Note that a making came to its good end."""
        self._pause = _FIRST_PAUSE
        self._short_since = _NEVER

    def failed(self, now: float) -> float:
        """Rest, the longer the more often it failed; return for how many seconds."""
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        self._resting_until = now + pause
        return pause
