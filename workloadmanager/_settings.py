"""What the WorkloadManager can be told from outside, read once."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  # read at run time
from typing import TYPE_CHECKING

import click

from serving import (
    COUNT,
    FILE,
    ID_RANGE,
    LISTEN,
    LOG_LEVEL,
    NUMBER,
    PATH,
    SPIFFE_ID,
    TRUST_DOMAIN,
    flag,
    otlp_flag,
)
from workloadmanager._demand import Bounds, Capacity
from workloadmanager._ids import is_label
from workloadmanager._issuing import IssuerFlags
from workloadmanager._picod import LONGEST_RUNTIME
from workloadmanager._templates import ISOLATION_LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving import Fault
    from tlsloader import SpiffeID

__all__ = ["Settings"]

_LOOPBACK = ("127.0.0.1:", "[::1]:", "localhost:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(IssuerFlags):
    """Own all sessions and the sandboxes behind them."""

    listen: str = flag(
        "--listen", LISTEN, help="Where Routers call: host:port or unix:/path"
    )
    state: Path = flag(
        "--state", PATH, help="The folder of what outlives us; ours alone (0700)"
    )
    runtime: Path = flag(
        "--runtime", PATH, help="The folder of the sandboxes' sockets; short, ours"
    )
    trust_domain: str = flag(
        "--trust-domain",
        TRUST_DOMAIN,
        default="cluster.local",
        help="The trust domain of the services",
    )
    sandbox_trust_domain: str | None = flag(
        "--sandbox-trust-domain",
        TRUST_DOMAIN,
        default=None,
        help="That of the sandboxes; sandbox.<trust domain> if not set",
    )
    namespace: str = flag(
        "--namespace",
        default="agentcube-system",
        help="The namespace in the sandboxes' SPIFFE IDs",
    )
    enable_mtls: bool = flag(
        "--enable-mtls/--no-enable-mtls",
        default=True,
        help="Both sides prove themselves; without, loopback and Unix sockets only",
    )
    router_id: SpiffeID | None = flag(
        "--router-id", SPIFFE_ID, default=None, help="The one SPIFFE ID that may call"
    )
    picod_auth_mode: str = flag(
        "--picod-auth-mode",
        click.Choice(["mtls", "jwt"]),
        default="mtls",
        help="How Routers prove themselves to sandboxes",
    )
    jwt_public_keys_file: Path | None = flag(
        "--jwt-public-keys-file",
        PATH,
        default=None,
        help="jwt: the JWKS that the Routers publish",
    )
    templates: Path | None = flag(
        "--templates", PATH, default=None, help="A YAML file of templates"
    )
    sandbox_uid_range: tuple[int, int] | None = flag(
        "--sandbox-uid-range",
        ID_RANGE,
        default=None,
        help="As root: the users to run sandboxes as, FIRST-LAST, one each",
    )
    picod_python: Path = flag(
        "--picod-python",
        FILE,
        default=sys.executable,
        help="The interpreter that PicoDs run by",
    )
    isolation: str = flag(
        "--isolation",
        click.Choice(list(ISOLATION_LEVELS)),
        default="bwrap",
        help="What separates code from the host, if the template does not say",
    )
    max_sessions: int = flag(
        "--max-sessions", COUNT, default=1000, help="How many sandboxes there may be"
    )
    warm_min_ready: int = flag(
        "--warm-min-ready",
        NUMBER,
        default=1,
        help="How many sandboxes of a template wait for a session at least",
    )
    warm_max_ready: int = flag(
        "--warm-max-ready",
        NUMBER,
        default=8,
        help="And at most, when as many were asked for within a minute; 0: none",
    )
    metrics_listen: str = flag(
        "--metrics-listen", LISTEN, default="127.0.0.1:0", help="Prometheus, by HTTP"
    )
    otlp_endpoint: str | None = otlp_flag()
    log_level: str = flag(
        "--log-level", LOG_LEVEL, default="info", help="How much is logged"
    )

    @property
    def sandbox_domain(self) -> str:
        """The sandboxes' trust domain."""
        return self.sandbox_trust_domain or f"sandbox.{self.trust_domain}"

    @property
    def capacity(self) -> Capacity:
        """How many sandboxes there may be."""
        ready = Bounds(self.warm_min_ready, self.warm_max_ready)
        return Capacity(self.max_sessions, ready)

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong between the flags."""
        yield from self._mode_faults()
        runtime = len(os.fsencode(self.runtime.absolute()))
        if runtime > LONGEST_RUNTIME:
            yield (
                f"--runtime is {runtime} bytes long, too long for sockets in it",
                f"choose a folder of at most {LONGEST_RUNTIME} bytes",
            )
        if not is_label(self.namespace):
            yield (f"--namespace {self.namespace!r} is no label", "use a-z, 0-9 and -")
        routers = self.router_id.trust_domain if self.router_id else ""
        if self.sandbox_domain in {self.trust_domain, routers}:
            yield (
                "the sandboxes' trust domain is that of the services",
                "who makes sandboxes' identities must not be able to make the Router's",
            )
        parent = self.sandbox_spire_parent
        if parent is not None and parent.trust_domain != self.sandbox_domain:
            yield (
                f"--sandbox-spire-parent {parent} is not of {self.sandbox_domain}",
                "name an agent of the sandboxes' own SPIRE",
            )
        yield from self.issuer_faults()
        if self.warm_min_ready > self.warm_max_ready > 0:
            least, most = self.warm_min_ready, self.warm_max_ready
            yield (
                f"--warm-min-ready {least} is more than --warm-max-ready {most}",
                "raise the one, or lower the other",
            )
        if self.sandbox_uid_range and os.geteuid() != 0:
            yield (
                "--sandbox-uid-range needs root",
                "start as root, or leave the flag out",
            )

    def _mode_faults(self) -> Iterator[Fault]:
        if self.enable_mtls:
            yield from self.identity_faults()
            yield from self._missing("--router-id")
        else:
            if self.picod_auth_mode != "jwt":
                yield (
                    "--no-enable-mtls goes with --picod-auth-mode jwt only",
                    "set both, or neither",
                )
            if not self.listen.startswith(("unix:", *_LOOPBACK)):
                yield (
                    f"--no-enable-mtls cannot listen on {self.listen}",
                    "without mTLS: 127.0.0.1:PORT or unix:/path",
                )
        if self.picod_auth_mode == "jwt":
            yield from self._missing("--jwt-public-keys-file")

    def _missing(self, *names: str) -> Iterator[Fault]:
        for name in names:
            if getattr(self, name.removeprefix("--").replace("-", "_")) is None:
                yield (f"{name} is not set", "the mode that is chosen needs it")
