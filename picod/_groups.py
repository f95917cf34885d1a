"""Control groups: the kernel's own limits for all processes of a sandbox together.

Version 2 where groups can be made beside our own, version 1 beneath it; both ask for
rights that an ordinary user has only under delegation. Where none can be made, limits
per process and the runner's watch remain.

Source: the kernel's admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and pids.rst.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Group", "Incidents", "Parent", "make_group", "parents", "places"]

_log = logging.getLogger("picod.groups")
_PATIENCE, _PAUSE = 1.0, 0.005
_NEEDED = ("memory", "pids")
_OURS = Path("/proc/self/cgroup"), Path("/proc/self/mountinfo")
_MEMORY = {2: "memory.max", 1: "memory.limit_in_bytes"}
_SWAP = {2: "memory.swap.max", 1: "memory.memsw.limit_in_bytes"}  # if it is there
_KILLS = {2: "memory.events", 1: "memory.oom_control"}


@dataclass(frozen=True, slots=True)
class Incidents:
    """How often something happened to processes of a group since it was made."""

    memory_kills: int = 0
    refused_forks: int = 0


@dataclass(frozen=True, slots=True)
class Parent:
    """Where groups can be made: a folder, or in version 1 one per controller."""

    version: int
    folders: tuple[Path, ...]


def parents(cgroup: str, mountinfo: str) -> Iterator[Parent]:
    """Yield where groups of this process's own may be, the best first.

    Args:
        cgroup: /proc/self/cgroup, of which *mountinfo* tells where it can be seen.
        mountinfo: /proc/self/mountinfo.

    """
    own = dict(_own_paths(cgroup))
    seen: dict[str, Path] = {}
    for kind, options, root, point in _mounts(mountinfo):
        for name in [""] if kind == "cgroup2" else options & set(_NEEDED):
            path = Path("/", own.get(name, ""))
            if name in own and path.is_relative_to(root):
                seen.setdefault(name, point / path.relative_to(root))
                if not name and path != Path(root):
                    # Beside us: a group with processes has no groups beneath it.
                    seen[name] = seen[name].parent
    if "" in seen:
        yield Parent(2, (seen[""],))
    if all(name in seen for name in _NEEDED):
        yield Parent(1, tuple(seen[name] for name in _NEEDED))


def _own_paths(cgroup: str) -> Iterator[tuple[str, str]]:
    for line in cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            yield name, path


def _mounts(mountinfo: str) -> Iterator[tuple[str, set[str], str, Path]]:
    """Yield type, options, root and place of each mount. Source: proc(5)."""
    for line in mountinfo.splitlines():
        first, _, second = line.partition(" - ")
        kind, _, options = second.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = first.split(" ")[3:5]
            yield kind, set(options.split(",")), root, Path(point)


class Group:
    """One group with its limits; `close` removes it once its processes are gone."""

    def __init__(self, parent: Parent, name: str) -> None:
        self.version = parent.version
        self.folders = tuple(folder / name for folder in parent.folders)

    @property
    def kind(self) -> str:
        """How `Isolation.limits_by` names this."""
        return f"cgroup{self.version}"

    @classmethod
    def make(cls, parent: Parent, name: str, *, memory: int, processes: int) -> Self:
        """Make a group of at most *memory* bytes and *processes*.

        Raises:
            OSError: not here.

        """
        made = cls(parent, name)
        if made.version == 2:  # noqa: PLR2004
            _enable(parent.folders[0])
        try:
            for folder in made.folders:
                folder.mkdir(mode=0o755, exist_ok=True)
            made._limit(memory, processes)
        except OSError:
            made.close()
            raise
        return made

    def _limit(self, memory: int, processes: int) -> None:
        self._file(_MEMORY[self.version]).write_text(str(memory))
        swap = self._file(_SWAP[self.version])
        if swap.exists():  # version 1 counts memory and swap together
            swap.write_text(str(memory if self.version == 1 else 0))
        self._file("pids.max").write_text(str(processes))

    def _file(self, name: str) -> Path:
        return self.folders[-1 if name.startswith("pids") else 0] / name

    def take(self, pid: int) -> None:
        """Move *pid* and all its descendants here; gone ones are fine.

        Only before they run foreign code, which could fork faster than we look.
        """
        taken: set[int] = set()
        while new := {pid, *_descendants(pid)} - taken:
            for each in new:
                for folder in self.folders:
                    with contextlib.suppress(ProcessLookupError):
                        (folder / "cgroup.procs").write_text(str(each))
            taken |= new

    def incidents(self) -> Incidents:
        """Ask the kernel what happened."""
        try:
            return Incidents(
                _count(self._file(_KILLS[self.version]), "oom_kill"),
                _count(self._file("pids.events"), "max"),
            )
        except OSError:
            return Incidents()

    def close(self) -> None:
        """Remove the group; one with processes stays, and the log says so. Blocks.

        The kernel still counts the dead for a moment.
        """
        for folder in self.folders:
            until = time.monotonic() + _PATIENCE
            while not _removed(folder):
                if time.monotonic() > until:
                    _log.warning("group not removed", extra={"path": str(folder)})
                    break
                time.sleep(_PAUSE)


def places() -> tuple[Parent, ...]:
    """Return where groups of this process's own may be, the best first."""
    try:
        return _places(*(file.read_text() for file in _OURS))
    except OSError:
        return ()


@functools.cache
def _places(cgroup: str, mountinfo: str) -> tuple[Parent, ...]:
    """Remember what was found, for a process that is forked from this one."""
    return tuple(parents(cgroup, mountinfo))


def make_group(name: str, *, memory: int, processes: int) -> Group | None:
    """Make a group where that can be; None: nowhere."""
    for parent in places():
        try:
            return Group.make(parent, name, memory=memory, processes=processes)
        except OSError as error:
            _log.debug("no group", extra={"detail": str(error)})
    return None


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _enable(folder: Path) -> None:
    """Have groups beneath *folder* limited, if that is not so already."""
    control = folder / "cgroup.subtree_control"
    missing = set(_NEEDED) - set(control.read_text().split())
    if missing:
        control.write_text(" ".join(f"+{name}" for name in sorted(missing)))


def _count(file: Path, key: str) -> int:
    for line in file.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    yield child
                    yield from _descendants(child)
