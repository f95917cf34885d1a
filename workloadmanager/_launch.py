"""How a PicoD comes to run: forked from a process that waits for it, or afresh."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from workloadmanager._forkserver import ForkServerError
from workloadmanager._newborn import Newborn
from workloadmanager._process import Process, start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from workloadmanager._forkserver import ForkServer

__all__ = ["Launched", "launch"]

_ATTEMPTS: Final = 3

_log = logging.getLogger(__name__)


class Launched(NamedTuple):
    """A process that is to be a PicoD, and the line to it."""

    process: Process
    newborn: Newborn


async def launch(
    forks: ForkServer,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    log: Path,
    python: str,
) -> Launched:
    """Start a PicoD of *argv*; it writes to *log*, and finds its line as 1 and 3.

    A fork server that ends meanwhile is replaced and asked again; if there is none,
    the PicoD is started afresh, which takes it some tenths of a second. Whoever is
    cancelled here leaves no process.
    """
    written = os.open(log, _FLAGS, 0o600)
    try:
        for _ in range(_ATTEMPTS):
            try:
                return await _forked(forks, argv, environment, written)
            except (ForkServerError, EOFError) as error:
                _log.warning("not forked", extra={"detail": str(error)})
        return _afresh([python, "-I", "-m", "picod", *argv], environment, written)
    finally:
        os.close(written)


_FLAGS = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


async def _forked(
    forks: ForkServer, argv: Sequence[str], environment: Mapping[str, str], log: int
) -> Launched:
    newborn = Newborn()
    try:
        line = newborn.theirs.fileno()
        await forks.order(argv, environment, (line, log, line))
        return Launched(await newborn.introduced(), newborn)
    except BaseException:
        if (process := newborn.abandon()) is not None:
            process.kill()
            process.close()
        raise


def _afresh(argv: list[str], environment: Mapping[str, str], log: int) -> Launched:
    newborn = Newborn()
    line = newborn.theirs.fileno()
    try:
        mark = start(argv, environment, output=line, log=log, handed=line)
    except BaseException:
        newborn.close()
        raise
    return Launched(Process.of_child(mark), newborn)
