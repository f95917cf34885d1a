"""The logs of PicoDs, a file each; of those that have ended only the last are kept."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from workloadmanager._ids import is_sandbox_id

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Logs"]

_KEPT: Final = 1000


class Logs:
    """The files in *folder*; of ended sandboxes the last *kept*, also earlier ones."""

    def __init__(self, folder: Path, *, kept: int = _KEPT) -> None:
        self._folder, self._kept = folder, kept
        found = [
            (path.stat().st_mtime_ns, path.stem)
            for path in folder.glob("*.log")
            if is_sandbox_id(path.stem)
        ]
        self._ended = dict.fromkeys(name for _, name in sorted(found))

    def path(self, sandbox_id: str) -> Path:
        """Return where the PicoD of this sandbox writes."""
        return self._folder / f"{sandbox_id}.log"

    def begin(self, sandbox_id: str) -> None:
        """Note that this sandbox lives."""
        self._ended.pop(sandbox_id, None)

    def end(self, sandbox_id: str) -> None:
        """Note that this sandbox has ended."""
        self._ended.pop(sandbox_id, None)
        self._ended[sandbox_id] = None
        while len(self._ended) > self._kept:
            self.remove(next(iter(self._ended)))

    def remove(self, sandbox_id: str) -> None:
        """Remove the log of a sandbox that nobody will ask about."""
        self._ended.pop(sandbox_id, None)
        with suppress(OSError):
            self.path(sandbox_id).unlink()
