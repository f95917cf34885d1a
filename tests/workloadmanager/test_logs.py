"""Logs of sandboxes that have ended do not fill the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from workloadmanager._ids import sandbox_id
from workloadmanager._logs import Logs

if TYPE_CHECKING:
    from pathlib import Path


def write(logs: Logs, name: str, at: int) -> str:
    logs.path(name).write_text("x")
    os.utime(logs.path(name), (at, at))
    return name


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    """Also over a restart; what lives keeps its log, and other files are not ours."""
    logs = Logs(tmp_path, kept=2)
    (tmp_path / "router.log").write_text("x")
    names = [write(logs, sandbox_id(), at) for at in range(4)]
    for name in names[:3]:
        logs.end(name)
    left = {path.stem for path in tmp_path.iterdir()}
    assert left == {*names[1:], "router"}
    later = Logs(tmp_path, kept=2)
    later.begin(names[1])
    later.end(write(later, sandbox_id(), 9))
    left = {path.stem for path in tmp_path.iterdir()}
    assert {names[1], names[3], "router"} < left
    assert names[2] not in left


def test_a_log_that_nobody_wants_goes_at_once(tmp_path: Path) -> None:
    """Once, twice, or not there at all."""
    logs = Logs(tmp_path)
    name = write(logs, sandbox_id(), 1)
    logs.end(name)
    logs.remove(name)
    logs.remove(name)
    assert [*tmp_path.iterdir()] == []
