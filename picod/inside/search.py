"""Finding a program like a shell does, and starting it."""

from __future__ import annotations

import errno
import os

from picod.inside import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.keeper import Order

PLACES = b"/usr/local/bin:/usr/bin:/bin"  # where to look if PATH does not say
_GOING_ON = (errno.ENOENT, errno.ENOTDIR)


def execute(order: Order, stdio: tuple[int, int, int]) -> int:
    """Start the program, searched like a shell would, and return its pid.

    Raises:
        OSError: of the last place that had one, else ENOENT.

    """
    argv, environment, *_ = order
    actions = [(os.POSIX_SPAWN_DUP2, end, wanted) for wanted, end in enumerate(stdio)]
    refused = OSError(errno.ENOENT, "not found")
    for program in candidates(argv[0], environment.get(b"PATH", PLACES)):
        try:
            return os.posix_spawn(
                program,
                argv,
                environment,
                file_actions=actions,
                setsid=True,
                setsigdef=kernel.IGNORED,
            )
        except OSError as error:
            if error.errno not in _GOING_ON:
                refused = error
    raise refused


def candidates(program: bytes, search: bytes) -> list[bytes]:
    """Name the files that *program* may mean, those that exist."""
    if b"/" in program:
        return [program]
    paths = [(folder or b".") + b"/" + program for folder in search.split(b":")]
    return [path for path in paths if os.path.exists(path)]
