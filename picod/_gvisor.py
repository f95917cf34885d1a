"""The OCI bundle of the isolation level `gvisor`, and the command that runs it.

The view of files is that of bwrap; the kernel that the code sees is gVisor's own, a
process of the sandbox's user. `runsc do` is never used: it shows the host's files.

Source: the OCI runtime specification, config.md; runsc(1) by `runsc flags`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from picod._errors import IsolationError
from picod._view import USER

if TYPE_CHECKING:
    from picod._view import View

__all__ = ["arguments", "bundle_at", "find_runsc", "find_setpriv"]

_FLAGS = (
    "--rootless",  # we have dropped to the sandbox's user already
    "--ignore-cgroups",  # PicoD has made the group
    "--network=none",
    "--platform=systrap",  # needs no device
    "--host-uds=none",
    "--host-fifo=none",
    "--overlay2=none",  # nothing of the view is writable but tmpfs
    "--oci-seccomp=false",
)
_SETS = ("bounding", "effective", "permitted")
_RIGHTS = ["CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP"]
_ENVIRONMENT = ("PATH=/usr/bin:/bin",)


def find_runsc() -> Path:
    """Return gVisor's program on PATH.

    Raises:
        IsolationError: there is none.

    """
    found = shutil.which("runsc")
    if found is None:
        raise IsolationError(
            "isolation gvisor needs runsc, and there is none on PATH",
            "install gVisor's runsc, or let the template say isolation: bwrap",
        )
    return Path(found).resolve()


def find_setpriv() -> str:
    """Return util-linux's setpriv, which ties runsc's life to ours.

    Raises:
        IsolationError: there is none.

    """
    found = shutil.which("setpriv")
    if found is None:
        raise IsolationError("setpriv is not there", "install util-linux")
    return found


def arguments(setpriv: str, runsc: str, bundle: Path) -> list[str]:
    """Give the command that runs the bundle, as a child that dies with us."""
    return [
        *(setpriv, "--pdeathsig", "KILL", "--no-new-privs", runsc),
        *(f"--root={bundle / 'state'}", *_FLAGS),
        *("run", f"--bundle={bundle}", "sandbox"),
    ]


def bundle_at(folder: Path, seen: View, argv: list[str], uid: int | None) -> None:
    """Make the bundle in *folder*, for the host's user *uid* to read."""
    root = folder / "rootfs"
    for name in ("rootfs/etc", "rootfs/proc", "rootfs/dev", "state"):
        (folder / name).mkdir(parents=True)
    for path in (*seen.folders, *(each.place for each in seen.tmpfs)):
        (root / path[1:]).mkdir(parents=True, exist_ok=True)
    for name, text in seen.files.items():
        (root / "etc" / name).write_text(text, encoding="utf-8")
    for path in seen.shown:
        _mount_point(path, root / path[1:])
    for link, target in seen.links.items():
        (root / link[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / link[1:]).symlink_to(target)
    (folder / "config.json").write_text(json.dumps(_config(seen, argv)))
    if uid is not None:
        os.chown(folder / "state", uid, uid)
    for made in (*folder.rglob("*"), folder):
        if not made.is_symlink() and made.name != "state":
            made.chmod(0o755 if made.is_dir() else 0o444)


def _mount_point(path: str, place: Path) -> None:
    """Make what *path* can be mounted on."""
    if Path(path).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def _config(seen: View, argv: list[str]) -> dict[str, object]:
    shown = [
        {
            "destination": path,
            "type": "bind",
            "source": path,
            "options": ["rbind", "ro", "nosuid", "nodev"],
        }
        for path in seen.shown
    ]
    memory = [
        {
            "destination": each.place,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": [
                *("nosuid", "nodev", f"size={each.size}", f"mode={each.mode:04o}"),
                *(f"uid={USER}", f"gid={USER}"),
            ],
        }
        for each in seen.tmpfs
    ]
    kinds = ("pid", "mount", "ipc", "uts", "network")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},  # until the runner has made itself two
            "args": argv,
            "env": list(_ENVIRONMENT),
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(_SETS, _RIGHTS),
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "sandbox",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            *shown,
            *memory,
        ],
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }
