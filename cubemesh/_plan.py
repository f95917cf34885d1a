"""Which processes make a mesh on one machine, and with which flags."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cubemesh._state import State

TRUST_DOMAIN = "cluster.local"
SANDBOX_TRUST_DOMAIN = f"sandbox.{TRUST_DOMAIN}"
NAMESPACE = "agentcube-system"
ROUTER_ID = f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/agentcube-router"
WORKLOADMANAGER_ID = f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/workloadmanager"
SERVICES = ("authority", "workloadmanager", "router")
_KEPT = (
    "GRPC_VERBOSITY",
    "HOME",
    "LANG",
    "LC_ALL",
    "PATH",
    "TZ",
    "XDG_RUNTIME_DIR",
)
_TWINS = tuple(f"CUBEMESH_{name.upper()}_" for name in SERVICES)


@dataclass(frozen=True, slots=True)
class Plan:
    """One mesh: all that decides the flags of its services."""

    state: State
    user: str
    auth_mode: str
    svid_ttl: str
    isolation: str

    def command(self, service: str, listen: str) -> list[str]:
        """Return the argv of *service*; *listen* is the Router's address."""
        flags = {
            "authority": self._authority(),
            "workloadmanager": self._workloadmanager(),
            "router": self._router(listen),
        }[service]
        # Isolated: no PYTHONPATH and no folder of the user's decides what runs.
        return [sys.executable, "-I", "-m", service, *flags]

    def _authority(self) -> list[str]:
        return [
            *("--state", str(self.state.root)),
            *("--trust-domain", TRUST_DOMAIN),
            *("--namespace", NAMESPACE),
            *("--user", self.user),
            *("--svid-ttl", self.svid_ttl),
        ]

    def _workloadmanager(self) -> list[str]:
        return [
            *("--listen", self._workloadmanager_address),
            *("--state", str(self.state.root)),
            *("--runtime", str(self.state.runtime)),
            *self._mtls("workloadmanager"),
            *("--trust-domain", TRUST_DOMAIN),
            *("--sandbox-trust-domain", SANDBOX_TRUST_DOMAIN),
            *("--router-id", ROUTER_ID),
            *("--picod-auth-mode", self.auth_mode),
            *("--svid-ttl", self.svid_ttl),
            *("--isolation", self.isolation),
            *self._public_keys(),
        ]

    def _router(self, listen: str) -> list[str]:
        sandboxes = self.state.bundle(SANDBOX_TRUST_DOMAIN)
        return [
            *("--listen", listen),
            *("--workloadmanager", self._workloadmanager_address),
            *("--workloadmanager-id", WORKLOADMANAGER_ID),
            *self._mtls("router"),
            *("--trust-bundle", f"{SANDBOX_TRUST_DOMAIN}={sandboxes}"),
            *("--client-ids", f"spiffe://{TRUST_DOMAIN}/user/"),
            *("--picod-auth-mode", self.auth_mode),
            *self._signing_keys(),
        ]

    @property
    def _workloadmanager_address(self) -> str:
        return f"unix:{self.state.runtime}/wm.sock"

    def _mtls(self, name: str) -> list[str]:
        chain, key = self.state.identity(name)
        return [
            *("--mtls-cert-file", str(chain)),
            *("--mtls-key-file", str(key)),
            *("--mtls-ca-file", str(self.state.bundle(TRUST_DOMAIN))),
        ]

    def _public_keys(self) -> list[str]:
        if self.auth_mode != "jwt":
            return []
        public = self.state.root / "router" / "jwt-public.json"
        return ["--jwt-public-keys-file", str(public)]

    def _signing_keys(self) -> list[str]:
        if self.auth_mode != "jwt":
            return []
        signing = self.state.root / "router" / "jwt-signing.json"
        return [
            *("--jwt-signing-key-file", str(signing)),
            *("--jwt-rotation", "1h"),
            *self._public_keys(),
        ]


def environment_of(environ: Mapping[str, str], runtime: Path) -> dict[str, str]:
    """Return what of *environ* the services may see: nothing they do not need.

    Their private sockets lie in *runtime*, so that those of a killed one go with it.
    """
    ours = {
        "GRPC_VERBOSITY": "ERROR",  # their logs are JSON; gRPC's lines are not
        "TMPDIR": str(runtime),
    }
    return ours | {
        name: value
        for name, value in environ.items()
        if name in _KEPT or name.startswith(_TWINS)
    }
