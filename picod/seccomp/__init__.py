"""The filter of system calls that holds for all code in a sandbox.

It is built beforehand (`make seccomp`), since small machines have no libseccomp, and
checked against its hash whenever it is loaded. Source: seccomp(2).
"""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path

from picod._errors import IsolationError

__all__ = ["ARCHITECTURES", "SUMS", "load", "path_of"]

ARCHITECTURES = ("aarch64", "x86_64")
_FOLDER = Path(__file__).parent
SUMS = _FOLDER / "SHA256SUMS"
"""The hashes, in the form of sha256sum(1)."""


def path_of(architecture: str) -> Path:
    """Return where the filter of *architecture* lies."""
    return _FOLDER / f"{architecture}.bpf"


@functools.cache
def load(architecture: str = "", sums: Path = SUMS) -> bytes:
    """Return the program of *architecture* (default: this machine's).

    Raises:
        IsolationError: there is none, or it is not the one that was built.

    """
    architecture = architecture or platform.machine()
    if architecture not in ARCHITECTURES:
        raise IsolationError(
            f"no filter of system calls for {architecture}",
            f"bwrap runs on {' and '.join(ARCHITECTURES)}; use gvisor, or none",
        )
    path = path_of(architecture)
    try:
        program = path.read_bytes()
        lines = [line.split() for line in sums.read_text(encoding="ascii").splitlines()]
    except OSError as error:
        raise IsolationError(f"the filter of system calls: {error}", _HINT) from error
    if [hashlib.sha256(program).hexdigest(), path.name] not in lines:
        raise IsolationError(f"{path} is not the filter that was built", _HINT)
    return program


_HINT = "install cubemesh-services again; in the source tree: make seccomp"
