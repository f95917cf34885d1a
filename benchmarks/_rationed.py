"""Processes with a fixed share of a core, where clients and services share the cores.

Two Router processes cannot be seen to do twice as much while their clients leave them
no second core. Held to little each, they can.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks._setup import NotAvailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["rationed"]

_PERIOD: Final = 10_000  # microseconds: short, or calls would wait long for their turn


class _Kind(NamedTuple):
    """How one version of control groups is told what a group may use."""

    root: Path
    controller: str
    """How /proc/PID/cgroup names it, in the line that tells a process's group."""
    limits: dict[str, str]
    """What to write into which file; ``{quota}`` in microseconds of a period."""


_KINDS: Final = (
    _Kind(
        Path("/sys/fs/cgroup"),
        "",
        {"cpu.max": f"{{quota}} {_PERIOD}"},
    ),
    _Kind(
        Path("/sys/fs/cgroup/cpu"),
        "cpu",
        {"cpu.cfs_period_us": f"{_PERIOD}", "cpu.cfs_quota_us": "{quota}"},
    ),
)


@contextmanager
def rationed(pids: Sequence[int], share: float) -> Iterator[None]:
    """Hold each of *pids*, with all its threads, to *share* of a core meanwhile.

    Source: the kernel's admin-guide/cgroup-v2.rst (cpu.max), scheduler/sched-bwc.rst.

    Raises:
        NotAvailableError: no group can be made that limits processors.
    """
    kind = _usable()
    before = {pid: _group(kind, pid) for pid in pids}
    made: list[Path] = []
    try:
        for pid in pids:
            made.append(_make(kind, share))
            _move(pid, made[-1])
        yield
    finally:
        for pid, group in before.items():
            _move(pid, group)
        for group in made:
            group.rmdir()


def _usable() -> _Kind:
    for kind in _KINDS:
        try:
            _make(kind, 1.0).rmdir()
        except OSError:
            continue
        return kind
    raise NotAvailableError("no control group that limits processors can be made")


def _make(kind: _Kind, share: float) -> Path:
    group = kind.root / f"cubemesh-bench-{os.getpid()}-{os.urandom(4).hex()}"
    group.mkdir()
    try:
        for name, text in kind.limits.items():
            limit = group / name
            # Where it is missing, the controller is not to be had
            with limit.open("r+") as file:
                file.write(text.format(quota=round(share * _PERIOD)))
    except OSError:
        group.rmdir()
        raise
    return group


def _group(kind: _Kind, pid: int) -> Path:
    """Return the group of a process. Source: cgroups(7), /proc/PID/cgroup."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if kind.controller in controllers.split(","):
            return kind.root / path.removeprefix("/")
    raise NotAvailableError(f"the kernel does not say in which group {pid} is")


def _move(pid: int, group: Path) -> None:
    (group / "cgroup.procs").write_text(f"{pid}")
