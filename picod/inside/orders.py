"""What PicoD asks, made into what a keeper gets."""

from __future__ import annotations

import os
import resource

from picod._values import number, text, texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod._values import Value
    from picod.inside.keeper import Order

_SHOWN = b"/workspace"
_LIMITS = (
    (resource.RLIMIT_NPROC, b"processes"),
    (resource.RLIMIT_NOFILE, b"open_files"),
    (resource.RLIMIT_FSIZE, b"file_size"),
    (resource.RLIMIT_CPU, b"cpu_seconds"),
    (resource.RLIMIT_DATA, b"memory"),
)


def order_of(request: dict[bytes, Value], defaults: dict[bytes, Value]) -> Order:
    """Make what the keeper gets from what PicoD asks."""
    pairs = texts(defaults, b"environment") + texts(request, b"environment")
    workspace, cwd = text(defaults, b"workspace"), text(request, b"cwd")
    if cwd == _SHOWN or cwd.startswith(_SHOWN + b"/"):
        cwd = workspace + cwd[len(_SHOWN) :]
    limits = [
        (limit, _capped(limit, number(defaults, name))) for limit, name in _LIMITS
    ]
    return (
        texts(request, b"argv"),
        dict(zip(pairs[::2], pairs[1::2])),  # noqa: B905
        os.path.join(workspace, cwd),
        [*limits, (resource.RLIMIT_CORE, 0)],
        bool(number(defaults, b"isolated")),
    )


def _capped(limit: int, value: int) -> int:
    """Nobody may raise a limit above the one we were started with."""
    hard = resource.getrlimit(limit)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
