"""Whom the runner and the code are, and what both may ask of the kernel."""

from __future__ import annotations

import _ctypes
import os

from picod.inside import libc

RUNNER, CODE = 999, 1000  # users inside a sandbox that was started as its root
_GIVEN = (6, 7, 8)  # CAP_SETGID, CAP_SETUID, CAP_SETPCAP
_PR_SET_SECCOMP, _PR_CAPBSET_DROP = 22, 24
_FILTER = 2  # SECCOMP_MODE_FILTER
_INSTRUCTION = 8  # bytes


class _Program(_ctypes.Structure):
    """Source: seccomp(2), `struct sock_fprog`."""

    _fields_ = (("length", libc.Short), ("filter", libc.Bytes))


def be_the_runner() -> None:
    """Give up being root: act as the code's user, but be another.

    Files are the code's; signals from it, its debuggers and /proc/1 are closed.
    """
    if os.getuid() == 0:
        for right in _GIVEN:
            libc.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)
        os.setgroups([])
        os.setresgid(RUNNER, CODE, RUNNER)
        os.setresuid(RUNNER, CODE, RUNNER)


def be_the_code() -> None:
    """Give up being the runner, for good."""
    if os.getuid() == RUNNER:
        os.setresgid(CODE, CODE, CODE)
        os.setresuid(CODE, CODE, CODE)


def filter_calls(program: bytes) -> None:
    """Have the kernel judge every call of ours and our children by *program*."""
    made = _Program(len(program) // _INSTRUCTION, program)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, _ctypes.byref(made), 0, 0):
        raise OSError(_ctypes.get_errno(), "the filter of system calls")
