"""How the runner begins, and how it ends."""

from __future__ import annotations

import gc
import os
import resource
import time

from picod.inside import kernel, rights
from picod.inside.keeper import DESCRIPTORS
from picod.inside.link import HungUpError, Link
from picod.inside.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main(began_ns: int, load: Callable[[], None]) -> None:
    """Serve PicoD on descriptor 0 until it hangs up.

    Args:
        began_ns: when the interpreter ran its first line, on the monotonic clock.
        load: gives a fork of ours the modules that only interpreters need.

    """
    loaded_ns = time.monotonic_ns()
    rights.be_the_runner()
    kernel.hide()
    kernel.ignore_signals()
    kernel.adopt_orphans()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS), hard))
    os.closerange(3, DESCRIPTORS)
    link = Link(os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    os.close(null)
    gc.freeze()  # the collectors of our forks would copy every page that they touch
    runner = Runner(link, (began_ns, loaded_ns), load)
    try:
        runner.serve()
    except HungUpError:
        runner.end()
