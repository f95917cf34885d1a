"""How a PicoD comes to run: its process, its log, and the identity it is handed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workloadmanager._control import identity_to_wire
from workloadmanager._process import start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from workloadmanager._identities import Handover
    from workloadmanager._picod import Place, Plan
    from workloadmanager._process import Mark
    from workloadmanager._templates import Template

__all__ = ["launch"]


def launch(
    plan: Plan, place: Place, template: Template, *, log: Path, given: Handover | None
) -> tuple[int, Mark]:
    """Start the PicoD of *place*; return where its first line can be read, and it."""
    argv = plan.argv(place, template)
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    written = os.open(log, flags, 0o600)
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(writing, True)
    try:
        environment = plan.environment(plan.scratch(place, template))
        with _in_memory(given) as handed:
            mark = start(argv, environment, output=writing, log=written, handed=handed)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
        os.close(written)
    return reading, mark


@contextmanager
def _in_memory(given: Handover | None) -> Iterator[int | None]:
    """Put what is handed over into a file that is in no folder."""
    if given is None:
        yield None
        return
    handed = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(handed, identity_to_wire(given).SerializeToString())
        os.lseek(handed, 0, os.SEEK_SET)
        yield handed
    finally:
        os.close(handed)
