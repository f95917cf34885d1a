"""Killing whole trees of processes, and collecting the dead."""

from __future__ import annotations

import os
import time

from picod.inside import kernel
from picod.inside.keeper import Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.keeper import Order
    from picod.inside.kept import Kept

IDLE = 2  # keepers that wait for commands, however long
_LINGER = 5.0  # seconds that those beyond wait after the last command
_LEAVE = 0.1  # then one ends after the other
_NEVER = float("inf")
_USES = 500  # commands per keeper: its own processor time is limited, too
_AGAIN = 0.002
_PATIENCE = 3  # looks at an empty tree before its keeper counts as stuck


class Reaper:
    """Knows all keepers; what is beneath us and beneath no keeper is a stray."""

    def __init__(self) -> None:
        self.keepers: dict[int, Kept] = {}
        self.idle: list[Keeper] = []
        self.unborn: set[Kept] = set()  # those whose keeper has not told its pid
        self.nursery = 0  # the pid of the nursery; 0: there is none
        self._looks: dict[int, int] = {}
        self._orphaned: list[Kept] = []
        self.next_look: float | None = None  # for strays, on the monotonic clock
        self.most = IDLE  # keepers that may wait after many commands at once
        self.lean_at = _NEVER  # when one beyond `IDLE` ends

    def keeper(self, order: Order, *, with_input: bool) -> Keeper:
        """Find or make a keeper, and give it *order*.

        Raises:
            OSError: no process or descriptor is left for it.

        """
        while self.idle and not with_input:
            kept = self.idle.pop()
            if kept.give(order):
                return kept
        return Keeper.fork(with_input=with_input, order=order)

    def release(self, command: Kept) -> None:
        """Take the keeper of *command* back, beneath which nothing is."""
        kept = command.kept
        self.keepers.pop(kept.pid, None)
        self._looks.pop(kept.pid, None)
        fit = kept.lasting and kept.pid and kept.uses < _USES
        if fit and len(self.idle) < self.most:
            self.idle.append(kept)
            self._plan_end(_LINGER)
        else:
            kept.end()

    def _plan_end(self, pause: float) -> None:
        many = len(self.idle) > IDLE
        self.lean_at = time.monotonic() + pause if many else _NEVER

    def lost(self, command: Kept) -> None:
        """Note that the keeper of *command* closed its report: it has ended.

        If it was killed, what was beneath it is now beneath us, and the idle ones may
        have been killed as well, and take an order with them into their end.
        """
        self.unborn.discard(command)
        self.keepers.pop(command.kept.pid, None)
        self._looks.pop(command.kept.pid, None)
        if command.kept.pid and command.kept.collect() and not command.alone:
            self._orphaned.append(command)
            self.next_look = time.monotonic()
            while self.idle:
                self.idle.pop().end()
        else:
            command.alone = True

    def sweep(self, now: float) -> None:
        """Kill what is due at *now*, on the monotonic clock."""
        if self.lean_at <= now:
            if len(self.idle) > IDLE:
                self.idle.pop(0).end()
            self._plan_end(_LEAVE)
        due = [c for c in self.keepers.values() if c.sweep_at and c.sweep_at <= now]
        if not due and not self._orphaned:
            return
        table = kernel.processes()
        for command in due:
            self._sweep_tree(command, table, now)
        if self._orphaned and not self.unborn:
            self._sweep_strays(table)
        self.next_look = now + _AGAIN if self._orphaned else None

    def _sweep_tree(
        self, command: Kept, table: list[kernel.Process], now: float
    ) -> None:
        pid = command.kept.pid
        below = kernel.descendants([pid], table)
        for process in below:
            kernel.kill(process.pid)
        looks = self._looks.get(pid, 0) + 1
        if not all(process.zombie for process in below):
            looks = 0
        self._looks[pid] = looks
        if looks > _PATIENCE:  # stopped by the code, or it would have ended
            kernel.kill(pid)
        command.sweep_at = now + _AGAIN

    def _sweep_strays(self, table: list[kernel.Process]) -> None:
        """Kill what lives beneath us, but not beneath a keeper."""
        us = os.getpid()
        known = {*self.keepers, self.nursery, *(kept.pid for kept in self.idle)}
        others = [p for p in table if p.parent == us and p.pid not in known]
        below = kernel.descendants([process.pid for process in others], table)
        for process in others + below:
            kernel.kill(process.pid)
        for process in others:
            try:
                os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                continue
        if all(process.zombie for process in others + below):
            orphaned, self._orphaned = self._orphaned, []
            for command in orphaned:
                command.alone = True
                command.go_on()

    def end_everything(self) -> None:
        """Kill all that is beneath us, for at most two seconds."""
        us = os.getpid()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            below = kernel.descendants([us], kernel.processes())
            if all(process.zombie for process in below):
                return
            for process in below:
                kernel.kill(process.pid)
            time.sleep(_AGAIN)
