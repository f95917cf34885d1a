"""What its limits did to the code of a sandbox, told as reasons of errors.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from picod._groups import Group

__all__ = ["Incidents"]

_MEMORY, _PROCESSES, _SPACE = "OUT_OF_MEMORY", "PROCESS_LIMIT", "NO_SPACE"


class Incidents:
    """Counts what happened, and remembers what was the last.

    The kernel is asked through *group*, where there is one; what the runner saw comes
    by `hear`, what a caller was refused by `add`.
    """

    def __init__(self, group: Group | None) -> None:
        self._group = group
        self._seen: dict[str, int] = {}
        self._heard: dict[str, int] = {}
        self.last = ""

    def look(self) -> bool:
        """Ask the kernel; return whether it killed for memory since the last time."""
        if self._group is None:
            return False
        found = self._group.incidents()
        return _MEMORY in self._note(
            {_MEMORY: found.memory_kills, _PROCESSES: found.refused_forks}, self._seen
        )

    def hear(self, said: Mapping[bytes, object]) -> None:
        """Take what the runner answered to `usage`."""
        numbers = {key: n for key, n in said.items() if isinstance(n, int)}
        space = numbers.get(b"space_kills", 0) + numbers.get(b"full", 0)
        memory = numbers.get(b"memory_kills", 0)
        self._note({_SPACE: space, _MEMORY: memory}, self._heard)

    def add(self, reason: str) -> None:
        """Note what a caller was told."""
        if reason in (_MEMORY, _PROCESSES, _SPACE):
            self.last = reason

    def _note(self, counts: Mapping[str, int], seen: dict[str, int]) -> list[str]:
        news = [each for each, count in counts.items() if count > seen.get(each, 0)]
        seen.update(counts)
        if news:
            self.last = _MEMORY if _MEMORY in news else news[0]
        return news
