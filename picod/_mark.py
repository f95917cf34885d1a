"""Which process a PicoD is, for whoever has to find it without its help."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from picod.inside.kernel import be_called

__all__ = ["leave_mark", "own_mark"]

_NAME: Final = "process.json"
_STAT: Final = Path("/proc/self/stat")
_STARTED: Final = 19  # behind the name


def own_mark() -> dict[str, int]:
    """Return our number and start time: one process for ever.

    Source: proc(5), /proc/pid/stat.
    """
    fields = _STAT.read_bytes().rpartition(b")")[2]
    return {"pid": os.getpid(), "started": int(fields.split()[_STARTED])}


def leave_mark(folder: Path, sandbox_id: str, uid: int | None) -> None:
    """Write down in *folder* which process we are, and as whom the code runs.

    Forked from a common parent, we cannot be told from others by a command line; a
    part of the sandbox's id becomes our name, for people.
    """
    mark = {**own_mark(), "uid": uid}
    (folder / _NAME).write_text(json.dumps(mark), encoding="ascii")
    be_called(f"picod-{sandbox_id[4:13]}".encode())
