"""What became of connections, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """The figures of one door, or of all dialers that share it."""

    connections: int = 0
    """How many proven connections are open."""
    refusals: Counter[str] = field(default_factory=Counter)
    """How many were never proven, by reason."""
    evictions: Counter[str] = field(default_factory=Counter)
    """How many were proven and ended by us all the same, by reason."""
    drains: int = 0
    """How many were asked to end when their calls have, for a newer connection."""
    denials: Counter[str] = field(default_factory=Counter)
    """How many calls on them were refused, or ended, by the gate, by reason."""
