"""Which processes make a mesh on one machine, and with which flags."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cubemesh._interpreter import own_interpreter
from cubemesh._spire import Node, Programs
from cubemesh._spire_admin import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cubemesh._state import State

TRUST_DOMAIN = "cluster.local"
SANDBOX_TRUST_DOMAIN = f"sandbox.{TRUST_DOMAIN}"
NAMESPACE = "agentcube-system"
_ROUTER = f"/ns/{NAMESPACE}/sa/agentcube-router"
_MANAGER = f"/ns/{NAMESPACE}/sa/workloadmanager"
ROUTER_ID = f"spiffe://{TRUST_DOMAIN}{_ROUTER}"
WORKLOADMANAGER_ID = f"spiffe://{TRUST_DOMAIN}{_MANAGER}"
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
class Realm:
    """The SPIRE of this machine: a node per trust domain, and who its workloads are."""

    services: Node
    sandboxes: Node
    interpreters: Mapping[str, Path]

    @classmethod
    def make(cls, state: State, programs: Programs) -> Self:
        """Return one that keeps what outlives it in *state*; blocks for a moment."""

        def node(name: str, trust_domain: str, delegate: str = "") -> Node:
            return Node(
                programs,
                trust_domain,
                data=state.root / "spire" / name,
                sockets=state.runtime / name,
                delegate=delegate,
            )

        folder = state.root / "interpreters"
        return cls(
            node("services", TRUST_DOMAIN),
            node("sandboxes", SANDBOX_TRUST_DOMAIN, _MANAGER),
            {name: own_interpreter(folder / name) for name in SERVICES},
        )

    def workloads(self, user: str) -> tuple[Entry, ...]:
        """Return who gets an identity of the services' trust domain.

        Only the Router's has names beside its SPIFFE ID, for the SDK's sake.
        """
        names = ("agentcube-router", f"agentcube-router.{NAMESPACE}.svc", "localhost")
        of = self.interpreters
        return (
            Entry("router", _ROUTER, of["router"], names),
            Entry("workloadmanager", _MANAGER, of["workloadmanager"]),
            Entry("user", f"/user/{user}", of["authority"]),
        )

    @property
    def delegates(self) -> tuple[Entry, ...]:
        """Who may ask for the identities of sandboxes."""
        return (Entry("delegate", _MANAGER, self.interpreters["workloadmanager"]),)


@dataclass(frozen=True, slots=True)
class Plan:
    """One mesh: all that decides the flags of its services."""

    state: State
    user: str
    auth_mode: str
    svid_ttl: str
    isolation: str
    realm: Realm | None = None
    otlp_endpoint: str = ""
    workers: int = 1

    def command(self, service: str, listen: str) -> list[str]:
        """Return the argv of *service*; *listen* is the Router's address."""
        flags = {
            "authority": self._authority(),
            "workloadmanager": self._workloadmanager(),
            "router": self._router(listen),
        }[service]
        python = sys.executable
        if self.realm is not None:
            python = str(self.realm.interpreters[service])
        # Isolated: no PYTHONPATH and no folder of the user's decides what runs.
        return [python, "-I", "-m", service, *flags]

    def _authority(self) -> list[str]:
        return [
            *("--state", str(self.state.root)),
            *("--trust-domain", TRUST_DOMAIN),
            *("--namespace", NAMESPACE),
            *("--user", self.user),
            *("--svid-ttl", self.svid_ttl),
            *self._agent(),
        ]

    def _workloadmanager(self) -> list[str]:
        return [
            *("--listen", self._workloadmanager_address),
            *("--state", str(self.state.root)),
            *("--runtime", str(self.state.runtime)),
            *(self._agent() or self._mtls("workloadmanager")),
            *self._sandboxes(),
            *("--trust-domain", TRUST_DOMAIN),
            *("--sandbox-trust-domain", SANDBOX_TRUST_DOMAIN),
            *("--router-id", ROUTER_ID),
            *("--picod-auth-mode", self.auth_mode),
            *("--svid-ttl", self.svid_ttl),
            *("--isolation", self.isolation),
            *self._public_keys(),
            *self._traces(),
        ]

    def _router(self, listen: str) -> list[str]:
        sandboxes = self.state.bundle(SANDBOX_TRUST_DOMAIN)
        return [
            *("--listen", listen),
            *(("--workers", str(self.workers)) if self.workers > 1 else ()),
            *("--workloadmanager", self._workloadmanager_address),
            *("--workloadmanager-id", WORKLOADMANAGER_ID),
            *(self._agent() or self._mtls("router")),
            *("--trust-bundle", f"{SANDBOX_TRUST_DOMAIN}={sandboxes}"),
            *("--client-ids", f"spiffe://{TRUST_DOMAIN}/user/"),
            *("--picod-auth-mode", self.auth_mode),
            *self._signing_keys(),
            *self._traces(),
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

    def _agent(self) -> list[str]:
        """Return where identities come from, if not from files."""
        if self.realm is None:
            return []
        socket = self.realm.services.agent_socket
        return ["--spiffe-endpoint-socket", f"unix://{socket}"]

    def _sandboxes(self) -> list[str]:
        """Return where sandboxes' identities come from, if not from an own CA."""
        if self.realm is None:
            return []
        node = self.realm.sandboxes
        return [
            *("--sandbox-spire-server", f"unix://{node.server_socket}"),
            *("--sandbox-spire-agent", f"unix://{node.admin_socket}"),
            *("--sandbox-spire-parent", node.parent),
            # By its own, a PicoD would be the WorkloadManager to the agent.
            *("--picod-python", sys.executable),
        ]

    def _traces(self) -> list[str]:
        return ["--otlp-endpoint", self.otlp_endpoint] if self.otlp_endpoint else []

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


def environment_of(
    environ: Mapping[str, str], runtime: Path, *, traces: bool = False
) -> dict[str, str]:
    """Return what of *environ* the services may see: nothing they do not need.

    Their private sockets lie in *runtime*, so that those of a killed one go with it.
    With *traces* they see how OpenTelemetry is set up.
    """
    ours = {
        "GRPC_VERBOSITY": "ERROR",  # their logs are JSON; gRPC's lines are not
        "TMPDIR": str(runtime),
    }
    prefixes = (*_TWINS, "OTEL_") if traces else _TWINS
    return ours | {
        name: value
        for name, value in environ.items()
        if name in _KEPT or name.startswith(prefixes)
    }
