"""Killing whole trees of processes, and collecting the dead."""

from __future__ import annotations

import os
import time

from picod.inside import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.commands import Command

_AGAIN = 0.002
_PATIENCE = 3  # looks at an empty tree before its keeper counts as stuck


class Reaper:
    """Knows all keepers; what is beneath us and beneath no keeper is a stray."""

    def __init__(self) -> None:
        self.keepers: dict[int, Command] = {}
        self._looks: dict[int, int] = {}
        self._orphaned: list[Command] = []
        self.next_look: float | None = None  # for strays, on the monotonic clock

    def lost(self, command: Command) -> None:
        """Note that the keeper of *command* closed its report: it has ended.

        A keeper ends by itself once nothing is beneath it. If it was killed, what
        was beneath it is now beneath us.
        """
        _, status = os.waitpid(command.keeper, 0)
        del self.keepers[command.keeper]
        self._looks.pop(command.keeper, None)
        if os.WIFSIGNALED(status):
            self._orphaned.append(command)
            self.next_look = time.monotonic()
        else:
            command.gone()

    def sweep(self, now: float) -> None:
        """Kill what is due at *now*, on the monotonic clock."""
        due = [c for c in self.keepers.values() if c.sweep_at and c.sweep_at <= now]
        if not due and not self._orphaned:
            return
        table = kernel.processes()
        for command in due:
            self._sweep_tree(command, table, now)
        if self._orphaned:
            self._sweep_strays(table)
        self.next_look = now + _AGAIN if self._orphaned else None

    def _sweep_tree(
        self, command: Command, table: list[kernel.Process], now: float
    ) -> None:
        below = kernel.descendants([command.keeper], table)
        for process in below:
            kernel.kill(process.pid)
        looks = self._looks.get(command.keeper, 0) + 1
        if not all(process.zombie for process in below):
            looks = 0
        self._looks[command.keeper] = looks
        if looks > _PATIENCE:  # stopped by the code, or it would have ended
            kernel.kill(command.keeper)
        command.sweep_at = now + _AGAIN

    def _sweep_strays(self, table: list[kernel.Process]) -> None:
        """Kill what lives beneath us, but not beneath a keeper."""
        us = os.getpid()
        others = [p for p in table if p.parent == us and p.pid not in self.keepers]
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
                command.gone()

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
