"""Limiting the number of files in a sandbox's tmpfs, which bwrap cannot say.

Only root may change them from outside; otherwise the runner's watch looks at them.
Source: the kernel's filesystems/tmpfs.rst, `nr_inodes`; fspick(2), fsconfig(2).
"""

from __future__ import annotations

import ctypes
import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from picod._types import Limits

__all__ = ["limit_inodes"]

_log = logging.getLogger("picod.runner")
_FSCONFIG, _FSPICK = 431, 433  # the same on every machine
_CLOEXEC, _NO_SYMLINK = 1, 2
_SET_STRING, _RECONFIGURE = 1, 7
_HERE = -100  # AT_FDCWD

_libc = ctypes.CDLL(None, use_errno=True)


def limit_inodes(pid: int, limits: Limits) -> None:
    """Let the tmpfs mounts that the process *pid* sees hold so many files each."""
    for place in ("workspace", "tmp", "dev/shm"):
        try:
            _limit(f"/proc/{pid}/root/{place}", limits.inodes)
        except OSError as error:
            _log.warning(
                "files are only watched", extra={"place": place, "detail": str(error)}
            )


def _limit(path: str, inodes: int) -> None:
    picked = _call(_FSPICK, _HERE, os.fsencode(path), _CLOEXEC | _NO_SYMLINK)
    try:
        value = str(inodes).encode()
        _call(_FSCONFIG, picked, _SET_STRING, b"nr_inodes", value, 0)
        _call(_FSCONFIG, picked, _RECONFIGURE, None, None, 0)
    finally:
        os.close(picked)


def _call(number: int, *args: int | bytes | None) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
