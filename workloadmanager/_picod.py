"""How a PicoD is told what it is to be: its command line and its folder."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from workloadmanager._process import Mark
from workloadmanager._templates import LIMITS

if TYPE_CHECKING:
    from workloadmanager._templates import Template

__all__ = ["LONGEST_RUNTIME", "Place", "Plan"]

_LONGEST_SOCKET = 107  # Source: unix(7), sun_path
LONGEST_RUNTIME = _LONGEST_SOCKET - len("/sbx-") - 26 - len("/control.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What all PicoDs of this WorkloadManager have in common."""

    runtime: Path
    logs: Path
    isolation: str
    auth_mode: str
    router_id: str
    own_id: str
    public_keys: Path | None = None
    python: str = sys.executable
    path: str = "/usr/local/bin:/usr/bin:/bin"
    log_level: str = "info"
    otlp_endpoint: str | None = None
    orphan_timeout: float = 900.0

    def flags(self, template: Template) -> list[str]:
        """Return the flags that all PicoDs of *template* have."""
        argv = ["--picod-auth-mode", self.auth_mode]
        argv += ["--workloadmanager-id", self.own_id] if self.own_id else []
        argv += self._identity()
        argv += ["--isolation", template.isolation or self.isolation]
        argv += ["--allow-network"] if template.allow_network else []
        argv += ["--orphan-timeout", f"{self.orphan_timeout:.3f}s"]
        argv += ["--log-level", self.log_level]
        if self.otlp_endpoint is not None:
            argv += ["--otlp-endpoint", self.otlp_endpoint]
        if template.python:
            argv += ["--python", template.python]
        for name in template.imports:
            argv += ["--import", name]
        for name, value in template.limits.items():
            argv += ["--limit", f"{name}={_write_limit(name, value)}"]
        return argv

    def scratch(self, place: Place, template: Template) -> Path:
        """Make and return where PicoD puts what it needs for a while.

        Without isolation the code works there, and gVisor has its bundle there, as a
        user who may not pass our own folder; for bwrap it is that.
        """
        if (template.isolation or self.isolation) == "bwrap":
            return place.folder
        place.open_folder.mkdir(mode=0o700)
        place.open_folder.chmod(0o711)
        return place.open_folder

    def environment(self, scratch: Path | None = None) -> dict[str, str]:
        """Return all the environment that a PicoD, or their parent, has."""
        # On the path bwrap, runsc and pasta are looked for.
        told = {"LANG": "C.UTF-8", "PATH": self.path}
        # What it leaves in its scratch folder goes with it.
        return told if scratch is None else {**told, "TMPDIR": str(scratch)}

    def place(self, sandbox_id: str, uid: int | None = None) -> Place:
        """Return where the sandbox lives."""
        return Place(sandbox_id, self.runtime / sandbox_id, uid)

    def _identity(self) -> list[str]:
        argv = ["--router-id", self.router_id] if self.router_id else []
        if self.auth_mode == "jwt":
            argv += ["--jwt-public-keys-file", str(self.public_keys)]
        return argv


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sandbox lives, and once it runs, which process it is."""

    sandbox_id: str
    folder: Path
    uid: int | None = None
    mark: Mark | None = None

    @property
    def control(self) -> Path:
        """The socket of its second door."""
        return self.folder / "control.sock"

    @property
    def open_folder(self) -> Path:
        """Where it works if nothing isolates it, or gVisor does; else there is none.

        Its user must be able to pass all folders above, so it is not in TMPDIR.
        """
        return Path("/tmp", f"cm-{self.sandbox_id}")  # noqa: S108

    @property
    def address(self) -> str:
        """Its data door."""
        return f"unix:{self.folder}/data.sock"

    @property
    def flags(self) -> dict[str, str]:
        """What the PicoD that lives here is told, beside what all are told."""
        told = {
            "--listen": self.address,
            "--control-listen": f"unix:{self.control}",
            "--sandbox-id": self.sandbox_id,
        }
        return told if self.uid is None else {**told, "--uid": str(self.uid)}

    def found(self) -> Self:
        """Return this with what a PicoD that lives here has left about itself."""
        try:
            text = (self.folder / "process.json").read_bytes()
            uid = json.loads(text)["uid"]
        except (OSError, ValueError, TypeError, KeyError):
            return self
        return replace(self, mark=Mark.read(text), uid=uid)

    def record(self) -> str:
        """Return the text from which `read` makes this again."""
        values: dict[str, object] = {"folder": str(self.folder), "uid": self.uid}
        if self.mark is not None:
            values |= self.mark._asdict()
        return json.dumps(values)

    @classmethod
    def read(cls, sandbox_id: str, record: str) -> Self:
        """Return the place that *record* tells of."""
        values = json.loads(record)
        mark = Mark(values["pid"], values["started"]) if "pid" in values else None
        return cls(sandbox_id, Path(values["folder"]), values["uid"], mark)


def _write_limit(name: str, value: float) -> str:
    return f"{value:.3f}s" if LIMITS[name] == "duration" else str(int(value))
