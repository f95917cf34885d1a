"""How a PicoD comes to run: forked from a process that waits for it, or afresh."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from workloadmanager._forkserver import ForkServerError
from workloadmanager._newborn import Newborn
from workloadmanager._process import Process, start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from workloadmanager._forkserver import ForkServer

__all__ = ["Launched", "Outfit", "launch"]

_ATTEMPTS: Final = 3
_HANDED: Final = 3  # the number of the first descriptor behind the standard ones
_LOG: Final = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outfit:
    """What a PicoD is told, what it is handed, and the *log* that it writes.

    *own* are flags that no other PicoD shares. *handed* are messages by the flags that
    tell it the descriptors they come through.
    """

    flags: Sequence[str]
    own: Mapping[str, str]
    environment: Mapping[str, str]
    handed: Mapping[str, bytes] = field(repr=False)
    log: Path

    @property
    def all_own(self) -> dict[str, str]:
        """*own*, and the flags that tell descriptors."""
        numbers = enumerate(self.handed, start=_HANDED)
        return {**self.own, **{name: str(number) for number, name in numbers}}

    @property
    def argv(self) -> list[str]:
        """All flags as a command line."""
        own = (word for pair in self.all_own.items() for word in pair)
        return [*self.flags, *own]

    @property
    def order(self) -> bytes:
        """What the fork server is told; see `picod.forkserver`."""
        told = {
            "flags": [*self.flags],
            "own": self.all_own,
            "environment": {**self.environment},
        }
        return json.dumps(told).encode()


class Launched(NamedTuple):
    """A process that is to be a PicoD, and the line to it."""

    process: Process
    newborn: Newborn


async def launch(outfit: Outfit, forks: ForkServer, *, python: str) -> Launched:
    """Start a PicoD, and hand it what it is to have.

    A fork server that ends meanwhile is replaced and asked again; if there is none,
    the PicoD is started afresh by *python*, which takes it some tenths of a second.
    Whoever is cancelled here leaves no process.
    """
    log = os.open(outfit.log, _LOG, 0o600)
    try:
        launched = await _launched(outfit, forks, python, log)
    finally:
        os.close(log)
    try:
        await launched.newborn.hand_over()
    except BaseException:
        _end(launched.process, launched.newborn)
        raise
    return launched


async def _launched(
    outfit: Outfit, forks: ForkServer, python: str, log: int
) -> Launched:
    for _ in range(_ATTEMPTS):
        try:
            return await _forked(outfit, forks, log)
        except (ForkServerError, EOFError) as error:
            _log.warning("not forked", extra={"detail": str(error)})
    newborn = Newborn([*outfit.handed.values()])
    argv = [python, "-I", "-m", "picod", *outfit.argv]
    try:
        mark = start(argv, outfit.environment, newborn.descriptors(log))
    except BaseException:
        newborn.close()
        raise
    return Launched(Process.of_child(mark), newborn)


async def _forked(outfit: Outfit, forks: ForkServer, log: int) -> Launched:
    newborn = Newborn([*outfit.handed.values()])
    try:
        descriptors = newborn.descriptors(log)
        await forks.order(outfit.order, descriptors)
        return Launched(await newborn.introduced(), newborn)
    except BaseException:
        _end(newborn.abandon(), newborn)
        raise


def _end(process: Process | None, newborn: Newborn) -> None:
    newborn.close()
    if process is not None:
        process.kill()
        process.close()
