"""Control groups: where they are made, what is written, and that they go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from picod._groups import Group, Incidents, Parent, make_group, parents
from picod._incidents import Incidents as Told

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIFIED = "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
OLD = """\
32 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 31 0:34 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 31 0:35 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""
CONTAINER = (
    "9 1 0:22 /docker/4f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    "9 1 0:23 /docker/4f /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n"
)


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "wanted"),
    [
        (
            "0::/user.slice/app.slice/mesh.scope\n",
            UNIFIED,
            [(2, "/sys/fs/cgroup/user.slice/app.slice")],
        ),
        ("0::/\n", UNIFIED, [(2, "/sys/fs/cgroup")]),
        (
            "8:pids:/a\n4:memory:/b/c\n2:cpu,cpuacct:/\n0::/\n",
            OLD,
            [(1, "/sys/fs/cgroup/memory/b/c /sys/fs/cgroup/pids/a")],
        ),
        (
            "8:pids:/docker/4f/x\n4:memory:/docker/4f\n",
            CONTAINER,
            [(1, "/sys/fs/cgroup/memory /sys/fs/cgroup/pids/x")],
        ),
        ("8:pids:/elsewhere\n4:memory:/docker/4f\n", CONTAINER, []),
        ("4:memory:/\n", OLD, []),
        ("0::/\n", "", []),
    ],
)
def test_where_groups_can_be(
    cgroup: str, mountinfo: str, wanted: list[tuple[int, str]]
) -> None:
    """Beside us in version 2, beneath us in version 1, as far as it is mounted."""
    found = [
        (parent.version, " ".join(map(str, parent.folders)))
        for parent in parents(cgroup, mountinfo)
    ]
    assert found == wanted


@pytest.fixture
def delegated(tmp_path: Path) -> Path:
    """Lay out a folder as the kernel would; it makes the files of new groups, too."""
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    made = tmp_path / "one"
    made.mkdir()
    for name in ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs"):
        (made / name).write_text("")
    (made / "memory.events").write_text("low 0\noom 9\noom_kill 3\noom_group_kill 0\n")
    (made / "pids.events").write_text("max 7\n")
    return tmp_path


def test_what_version_2_is_told(delegated: Path) -> None:
    """Memory, swap and processes are limited, and the counters are the right ones."""
    parent = Parent(2, (delegated,))
    group = Group.make(parent, "one", memory=1000, processes=5)
    written = {
        name: (delegated / "one" / name).read_text()
        for name in ("memory.max", "memory.swap.max", "pids.max")
    }
    assert written == {"memory.max": "1000", "memory.swap.max": "0", "pids.max": "5"}
    assert (delegated / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert group.incidents() == Incidents(memory_kills=3, refused_forks=7)
    assert group.kind == "cgroup2"
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        group.take(process.pid)
        process.kill()
    assert (delegated / "one" / "cgroup.procs").read_text() == str(process.pid)


def test_a_folder_that_takes_no_groups(tmp_path: Path) -> None:
    """Where the kernel refuses, nothing is left behind."""
    with pytest.raises(OSError, match="subtree_control"):
        Group.make(Parent(2, (tmp_path,)), "one", memory=1, processes=1)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def group() -> Iterator[Group]:
    made = make_group(f"cubemesh-test-{os.getpid()}", memory=1 << 26, processes=3)
    if made is None:
        pytest.skip("no control group can be made here")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.root
def test_descendants_come_along(group: Group) -> None:
    """A process is taken with all its children, is limited, and the group goes."""
    code = "sleep 60 & read line; sleep 60 & wait"
    with subprocess.Popen(["/bin/sh", "-c", code], stdin=subprocess.PIPE) as shell:
        children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children")
        while not children.read_text():
            os.sched_yield()
        group.take(shell.pid)
        procs = (group.folders[0] / "cgroup.procs").read_text().split()
        assert set(procs) == {str(shell.pid), *children.read_text().split()}
        assert shell.stdin is not None
        shell.stdin.write(b"go\n")
        shell.stdin.flush()
        while len(children.read_text().split()) < 2:
            os.sched_yield()
        for pid in map(int, children.read_text().split()):
            os.kill(pid, 9)
        shell.kill()
    group.close()
    assert not any(folder.exists() for folder in group.folders)


def test_what_is_told_last() -> None:
    """The newest incident is the one that is told; the same one again is none."""
    told = Told(None)
    assert not told.look()
    assert told.last == ""
    told.add("FILE_NOT_FOUND")
    assert told.last == ""
    told.add("PROCESS_LIMIT")
    assert told.last == "PROCESS_LIMIT"
    told.hear({b"memory_kills": 1, b"space_kills": 1, b"full": 0})
    assert told.last == "OUT_OF_MEMORY"
    told.hear({b"memory_kills": 1, b"space_kills": 2, b"full": 0})
    assert told.last == "NO_SPACE"
    told.hear({b"memory_kills": b"?", b"space_kills": 2})
    assert told.last == "NO_SPACE"
