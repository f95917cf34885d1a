"""The doors of a mesh that serve over TLS, and the callers they are made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.mesh import Up

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
USER = "spiffe://cluster.local/user/ada"


class Door(NamedTuple):
    """One door: where, what it logs to, and the caller it is made for."""

    address: str
    log: str
    rightful: str
    rightful_files: Path


def doors_of(mesh: Up, session_id: str) -> dict[str, Door]:
    """Return the doors of *mesh* by their names, of its sandboxes the session's."""
    identities = mesh.state / "identities"
    user, router = identities / "user", identities / "router"
    manager, sandbox = "workloadmanager", mesh.sandbox_of(session_id)
    data = f"unix:{mesh.runtime}/{sandbox}/data.sock"
    return {
        "router": Door(mesh.said["address"], "router", USER, user),
        manager: Door(f"unix:{mesh.runtime}/wm.sock", manager, ROUTER, router),
        "picod": Door(data, sandbox, ROUTER, router),
    }
