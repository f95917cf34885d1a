"""Paths in a sandbox: bytes on the wire, anything path-like in the hand."""

from __future__ import annotations

import os
from typing import TypeAlias

SandboxPath: TypeAlias = "str | bytes | os.PathLike[str]"


def to_bytes(path: SandboxPath) -> bytes:
    """Return *path* as the sandbox knows it; relative ones start at its workspace."""
    return os.fsencode(path)
