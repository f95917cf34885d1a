"""How many sandboxes of a kind are worth having ready."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["Bounds", "Capacity", "Demand"]

_WINDOW: Final = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many are ready at least and at most."""

    least: int
    most: int

    def or_rather(self, least: int | None, most: int | None) -> Bounds:
        """Return these bounds with what is told otherwise; that which is told wins."""
        if most is None:
            most = max(self.most, least or 0)
        return Bounds(min(self.least, most) if least is None else least, most)


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many sandboxes there may be, and of each kind *ready* if it does not say."""

    limit: int = 1000
    ready: Bounds = Bounds(0, 0)


class Demand:
    """Wants as many ready as were claimed within the last minute, within *bounds*.

    So whatever comes at once within a minute finds as much the next time, and a kind
    that nobody asks for costs no more than the least. Times are monotonic seconds.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._claims: deque[float] = deque(maxlen=bounds.most)

    def note(self, now: float) -> None:
        """Note a claim, whether there was one ready or not."""
        self._claims.append(now)

    def wanted(self, now: float) -> int:
        """Return how many are to be ready."""
        while self._claims and self._claims[0] <= now - _WINDOW:
            self._claims.popleft()
        return min(max(self.bounds.least, len(self._claims)), self.bounds.most)
