"""Builds the filters: ``make seccomp``. Needs libseccomp and pyseccomp."""

from __future__ import annotations

import errno
import hashlib
import tempfile

import pyseccomp as libseccomp

from picod.seccomp import ARCHITECTURES, SUMS, path_of
from picod.seccomp._rules import (
    ALLOWED,
    REFUSED,
    REFUSED_FAMILIES,
    REFUSED_SOME,
    SOME,
    Test,
)

__all__ = ["build"]

_ARCHITECTURES = {
    "aarch64": libseccomp.Arch.AARCH64,
    "x86_64": libseccomp.Arch.X86_64,
}
_BY_NAME = 2  # SCMP_FLTATR_CTL_OPTIMIZE: look calls up in a tree, not in a row


def build(architecture: str) -> bytes:
    """Return the program for *architecture*.

    Raises:
        ValueError: libseccomp is too old to know one of the calls.

    """
    made = libseccomp.SyscallFilter(libseccomp.ERRNO(errno.ENOSYS))
    made.set_attr(libseccomp.Attr.ACT_BADARCH, libseccomp.ERRNO(errno.ENOSYS))
    made.set_attr(libseccomp.Attr.CTL_OPTIMIZE, _BY_NAME)
    wanted = _ARCHITECTURES[architecture]
    if wanted != libseccomp.system_arch():
        made.add_arch(wanted)
        made.remove_arch(libseccomp.system_arch())
    refuse = libseccomp.ERRNO(errno.EPERM)
    for name in sorted(ALLOWED):
        made.add_rule(libseccomp.ALLOW, _number(name))
    for name in sorted(REFUSED):
        made.add_rule(refuse, _number(name))
    for name, tests in SOME:
        made.add_rule(libseccomp.ALLOW, _number(name), *map(_arg, tests))
    for name, test in REFUSED_SOME:
        made.add_rule(refuse, _number(name), _arg(test))
    for family in REFUSED_FAMILIES:
        unknown = libseccomp.ERRNO(errno.EAFNOSUPPORT)
        for name in ("socket", "socketpair"):
            made.add_rule(unknown, _number(name), _arg(Test(0, family)))
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _number(name: str) -> int:
    number: int = libseccomp.resolve_syscall(libseccomp.Arch.NATIVE, name)
    return number


def _arg(test: Test) -> libseccomp.Arg:
    return libseccomp.Arg(test.number, libseccomp.MASKED_EQ, test.mask, test.value)


def main() -> None:
    """Write both filters and their hashes."""
    sums = []
    for architecture in ARCHITECTURES:
        program = build(architecture)
        path = path_of(architecture)
        path.write_bytes(program)
        sums.append(f"{hashlib.sha256(program).hexdigest()}  {path.name}\n")
    SUMS.write_text("".join(sums), encoding="ascii")


if __name__ == "__main__":
    main()
