"""Everything the Router can be told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import click

from serving import (
    ADDRESS,
    COUNT,
    DURATION,
    LISTEN,
    LOG_LEVEL,
    MATCHER,
    NUMBER,
    PATH,
    SPIFFE_ID,
    IdentityFlags,
    flag,
    otlp_flag,
)
from tlsloader import Allowlist, AllowlistError, read_allowlist

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from serving import Fault
    from tlsloader import Matcher, SpiffeID

__all__ = ["Settings"]

_LOCAL = ("unix:", "127.", "localhost:", "[::1]:")
_SHORTEST_ROTATION = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(IdentityFlags):
    """The front door of the mesh: proves callers and forwards to their sandboxes."""

    listen: str = flag(
        "--listen", LISTEN, default="127.0.0.1:0", help="where callers come in (TLS)"
    )
    workers: int = flag(
        "--workers",
        COUNT,
        default=1,
        help="processes that share the port; each takes as many calls as told below",
    )
    client_ids: tuple[Matcher, ...] = flag(
        "--client-ids",
        MATCHER,
        multiple=True,
        help="whom to let in; default: spiffe://<our trust domain>/user/",
    )
    client_ids_file: Path | None = flag(
        "--client-ids-file",
        PATH,
        default=None,
        help="whom to let in: one rule a line, # for comments; followed",
    )
    admin_ids: tuple[Matcher, ...] = flag(
        "--admin-ids", MATCHER, multiple=True, help="who may use everybody's sessions"
    )
    admin_ids_file: Path | None = flag(
        "--admin-ids-file",
        PATH,
        default=None,
        help="the same, in a file like that of --client-ids-file",
    )
    workloadmanager: str = flag(
        "--workloadmanager", ADDRESS, help="where the WorkloadManager listens"
    )
    workloadmanager_id: SpiffeID | None = flag(
        "--workloadmanager-id",
        SPIFFE_ID,
        default=None,
        help="the identity the WorkloadManager must prove; needed with mTLS",
    )
    enable_mtls: bool = flag(
        "--enable-mtls/--no-enable-mtls",
        default=True,
        help="mutual TLS to the WorkloadManager; off on one machine only",
    )
    picod_auth_mode: Literal["mtls", "jwt"] = flag(
        "--picod-auth-mode",
        click.Choice(["mtls", "jwt"]),
        default="mtls",
        help="how we and sandboxes prove ourselves to each other",
    )
    signing_key_file: Path | None = flag(
        "--jwt-signing-key-file", PATH, default=None, help="our private keys, a JWKS"
    )
    public_keys_file: Path | None = flag(
        "--jwt-public-keys-file", PATH, default=None, help="where to publish them"
    )
    jwt_rotation: float | None = flag(
        "--jwt-rotation",
        DURATION,
        default=None,
        help="make keys, and new ones this often; without: others do",
    )
    max_concurrent_calls: int = flag(
        "--max-concurrent-calls", COUNT, default=1000, help="calls under way at once"
    )
    max_calls_per_session: int = flag(
        "--max-calls-per-session", COUNT, default=100, help="of these, in one session"
    )
    dial_ahead: int = flag(
        "--dial-ahead",
        NUMBER,
        default=16,
        help="sandboxes to connect to before they have a session; 0: none",
    )
    forward_unknown_methods: bool = flag(
        "--forward-unknown-methods/--no-forward-unknown-methods",
        default=False,
        help="forward methods of a PicoD newer than this Router",
    )
    call_timeout: float = flag(
        "--call-timeout",
        DURATION,
        default=600.0,
        help="how long a call with one answer may take at most",
    )
    max_stream_age: float = flag(
        "--max-stream-age",
        DURATION,
        default=86_400.0,
        help="how long a streaming call may take at most",
    )
    metrics_listen: str = flag(
        "--metrics-listen",
        LISTEN,
        default="127.0.0.1:0",
        help="Prometheus figures; of each worker one port on",
    )
    grace: float = flag(
        "--grace", DURATION, default=20.0, help="what running calls get at the end"
    )
    reflection: bool = flag(
        "--reflection/--no-reflection", default=False, help="for development only"
    )
    otlp_endpoint: str | None = otlp_flag()
    log_level: str = flag("--log-level", LOG_LEVEL, default="info", help="")

    def clients(self, trust_domain: str) -> Allowlist:
        """Return whom the front door lets in, given our own trust domain.

        Raises:
            AllowlistError: they are in a file, and it is not good any more.
        """
        if self.client_ids_file is not None:
            return read_allowlist(self.client_ids_file)
        if self.client_ids:
            return Allowlist(self.client_ids)
        return Allowlist.parse(f"spiffe://{trust_domain}/user/")

    def worker(self, listen: str, number: int) -> Self:
        """Return what a worker is told: where all listen, and where it gives figures.

        Each has a door for Prometheus of its own: with a port that was told, the next
        ones are those of the next workers.
        """
        host, _, port = self.metrics_listen.rpartition(":")
        metrics = f"{host}:{int(port) + number if int(port) else 0}"
        return replace(self, listen=listen, metrics_listen=metrics)

    def faults(self) -> Iterable[Fault]:
        """Yield what does not fit together."""
        jwt = self.picod_auth_mode == "jwt"
        yield from self.identity_faults()
        if self.enable_mtls and self.workloadmanager_id is None:
            yield "--workloadmanager-id is not set", "or switch --no-enable-mtls on"
        if not self.enable_mtls and not jwt:
            yield (
                "--no-enable-mtls does not go with --picod-auth-mode mtls",
                "say --picod-auth-mode jwt, or leave mTLS on",
            )
        if not self.enable_mtls and not self.workloadmanager.startswith(_LOCAL):
            yield (
                f"without mTLS {self.workloadmanager} must be on this machine",
                "use unix:/path or 127.0.0.1, or leave mTLS on",
            )
        if jwt and not (self.signing_key_file and self.public_keys_file):
            yield (
                "--picod-auth-mode jwt needs keys",
                "set --jwt-signing-key-file and --jwt-public-keys-file",
            )
        if self.workers > 1 and self.listen.startswith("unix:"):
            yield f"--workers share a port, and {self.listen} has none", "listen at one"
        if self.jwt_rotation is not None and self.jwt_rotation < _SHORTEST_ROTATION:
            yield "--jwt-rotation is below one minute", "say 1h"
        yield from self._foreign_clients()
        yield from _list_faults("--client-ids", self.client_ids, self.client_ids_file)
        yield from _list_faults("--admin-ids", self.admin_ids, self.admin_ids_file)

    def _foreign_clients(self) -> Iterable[Fault]:
        for matcher in (*self.client_ids, *self.admin_ids):
            if matcher.trust_domain in self.trust_bundles:
                continue
            if not self._maybe_known(matcher):
                yield (
                    f"nobody can prove {matcher}",
                    f"add --trust-bundle {matcher.trust_domain}=FILE",
                )

    def _maybe_known(self, matcher: Matcher) -> bool:
        """Without files read, the only hint of our own trust domain is the peer's."""
        if self.trust_bundle_dir or self.spiffe_endpoint_socket:
            return True  # they bring bundles of whom they will
        if self.workloadmanager_id is None:
            return True
        return matcher.trust_domain == self.workloadmanager_id.trust_domain


def _list_faults(
    flag: str, rules: tuple[Matcher, ...], file: Path | None
) -> Iterable[Fault]:
    if file is None:
        return
    if rules:
        yield f"{flag} and {flag}-file are both set", "leave one out"
    try:
        read_allowlist(file)
    except AllowlistError as error:
        yield f"{flag}-file: {error}", error.hint
