"""Identities made ahead: each slot is the next sandbox's, or already somebody's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from authority._authority import Issued
    from tlsloader import SpiffeID

__all__ = ["Slot", "Slots"]


@dataclass(slots=True, eq=False)
class Slot:
    """One identity at SPIRE: wanted, then entered there, then given its SVIDs.

    ``entry`` is the number of its entry at the server, ``issued`` the newest SVID
    that came; ``taken`` says that somebody has it, or will.
    """

    identity: SpiffeID
    entry: str = ""
    issued: Issued | None = field(default=None, repr=False)
    taken: bool = False


class Slots:
    """Which entries there are to be, without a word to anybody.

    There are as many slots that nobody has as *spare* says: who takes one makes
    room for the next. An identity is used once: what is dropped never comes back.
    """

    def __init__(self, names: Callable[[], SpiffeID], spare: int) -> None:
        self._names, self._spare = names, spare
        self._slots: dict[SpiffeID, Slot] = {}
        self._entries: dict[str, None] = {}  # to be deleted

    def __iter__(self) -> Iterator[Slot]:
        return iter(tuple(self._slots.values()))

    @property
    def ready(self) -> int:
        """How many can be given at once."""
        return sum(each.issued is not None for each in self._untaken())

    def find(self, identity: SpiffeID) -> Slot | None:
        """Return the slot of *identity*."""
        return self._slots.get(identity)

    def reserve(self) -> Slot:
        """Take the slot that can be given soonest; there always is one."""
        order = sorted(
            self._untaken(), key=lambda each: (each.issued is None, not each.entry)
        )
        slot = order[0] if order else self._add()
        slot.taken = True
        return slot

    def claim(self, identity: SpiffeID) -> Slot:
        """Take the slot of *identity*, made anew if there is none."""
        slot = self._slots.get(identity) or self._add(identity)
        slot.taken = True
        return slot

    def wanted(self, most: int) -> list[Slot]:
        """Return slots whose entries are to be made now, those taken first."""
        for _ in range(self._spare - len(self._untaken())):
            self._add()
        missing = [each for each in self._slots.values() if not each.entry]
        return sorted(missing, key=lambda each: not each.taken)[:most]

    def entered(self, slot: Slot, entry: str) -> bool:
        """Note the entry that was made; ``False``: nobody wants it any more."""
        if self._slots.get(slot.identity) is slot:
            slot.entry = entry
            return True
        self._entries[entry] = None
        return False

    def drop(self, identity: SpiffeID) -> None:
        """Give *identity* up for ever; its entry is to be deleted."""
        slot = self._slots.pop(identity, None)
        if slot is not None and slot.entry:
            self._entries[slot.entry] = None

    def found(self, entry: str, identity: SpiffeID | None) -> None:
        """Note an entry that is at the server: unless it is of a slot, it is to go."""
        if identity is None or identity not in self._slots:
            self._entries[entry] = None

    def doomed(self, most: int) -> list[str]:
        """Return entries that are to be deleted now."""
        return list(self._entries)[:most]

    def deleted(self, entries: Iterable[str]) -> None:
        """Note that these are gone."""
        for entry in entries:
            self._entries.pop(entry, None)

    def _untaken(self) -> list[Slot]:
        return [each for each in self._slots.values() if not each.taken]

    def _add(self, identity: SpiffeID | None = None) -> Slot:
        slot = Slot(identity or self._names())
        self._slots[slot.identity] = slot
        return slot
