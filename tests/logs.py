"""What services write while they run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["records"]


def records(log: Path) -> list[dict[str, Any]]:
    """Return the records in *log*, without the one that is just being written."""
    lines = log.read_text().rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
