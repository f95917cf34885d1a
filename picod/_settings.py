"""What PicoD can be told from outside, read once and never again."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from picod._errors import InvalidRequestError
from picod._types import Limits
from serving import (
    COUNT,
    DURATION,
    FILE,
    LISTEN,
    LOG_LEVEL,
    PAIR,
    PATH,
    SIZE,
    SPIFFE_ID,
    FlagType,
    IdentityFlags,
    flag,
    otlp_flag,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from serving import Fault
    from tlsloader import SpiffeID

__all__ = ["Settings"]

_SANDBOX_ID = re.compile(r"sbx-[a-z2-7]{26}\Z")
_LIMITS = tuple(each.name for each in fields(Limits))
_SECONDS = frozenset({"timeout", "cpu_seconds"})
T = TypeVar("T")


def _sandbox_id(text: str) -> str:
    if not _SANDBOX_ID.match(text):
        raise ValueError(f"{text!r} is not sbx- and 26 characters of base32")
    return text


def _module(text: str) -> str:
    if not all(part.isidentifier() for part in text.split(".")):
        raise ValueError(f"{text!r} is no name of a module")
    return text


def _told(value: T | None) -> T:
    if value is None:
        raise LookupError("this is not set in this mode: see `faults`")
    return value


def _limit(text: str) -> tuple[str, float]:
    name, value = PAIR.convert(text, None, None)
    if name not in _LIMITS:
        raise ValueError(f"there is no limit {name!r}; there are {', '.join(_LIMITS)}")
    kind = DURATION if name in _SECONDS else SIZE
    number: float = kind.convert(value, None, None)
    if number <= 0:
        raise ValueError(f"{name} must be above 0")
    return name, number if name == "timeout" else int(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(IdentityFlags):
    """Serve one sandbox: commands and files, all of them the work of its runner."""

    listen: str = flag(
        "--listen", LISTEN, help="The data door, for the Router: unix:/path in jwt mode"
    )
    control_listen: str = flag(
        "--control-listen",
        LISTEN,
        help="The control door, for the WorkloadManager: unix:/path",
    )
    sandbox_id: str = flag(
        "--sandbox-id",
        FlagType("sandbox-id", _sandbox_id),
        help="The id of this sandbox, never used again: sbx-…",
    )
    picod_auth_mode: str = flag(
        "--picod-auth-mode",
        click.Choice(["mtls", "jwt"]),
        default="mtls",
        help="How the Router proves itself at the data door",
    )
    router_id: SpiffeID | None = flag(
        "--router-id",
        SPIFFE_ID,
        default=None,
        help="mtls: the one SPIFFE ID that is admitted at the data door",
    )
    workloadmanager_id: SpiffeID | None = flag(
        "--workloadmanager-id",
        SPIFFE_ID,
        default=None,
        help="Who keeps the control door; over a Unix socket its user decides instead",
    )
    identity_fd: int | None = flag(
        "--identity-fd",
        COUNT,
        default=None,
        help="Instead of files or an agent: the descriptor through which one message "
        "cubemesh.v1.Identity comes; Renew hands over the next ones",
    )
    binding_fd: int | None = flag(
        "--binding-fd",
        COUNT,
        default=None,
        help="The descriptor through which the session comes at the start, one message "
        "cubemesh.v1.BindRequest; without, Bind tells it later",
    )
    jwt_public_keys_file: Path | None = flag(
        "--jwt-public-keys-file",
        PATH,
        default=None,
        help="jwt: the JWKS that the Routers publish",
    )
    isolation: Literal["bwrap", "gvisor", "none"] = flag(
        "--isolation",
        click.Choice(["bwrap", "gvisor", "none"]),
        default="bwrap",
        help="What separates the code from the host; none: nothing does",
    )
    uid: int | None = flag(
        "--uid",
        COUNT,
        default=None,
        help="The user that the code runs as; no other sandbox may have it",
    )
    allow_network: bool = flag(
        "--allow-network",
        default=False,
        help="bwrap: a way to the internet, not to this machine or what is near it",
    )
    limits: Mapping[str, float] = flag(
        "--limit",
        FlagType("name=value", _limit),
        mapping=True,
        help=f"A limit of the sandbox ({', '.join(_LIMITS)}); repeatable",
    )
    python: Path = flag(
        "--python",
        FILE,
        default="/usr/bin/python3",
        help="The interpreter of the runner, 3.9 or newer",
    )
    imports: tuple[str, ...] = flag(
        "--import",
        FlagType("module", _module),
        multiple=True,
        help="A module that code finds imported from the start; repeatable",
    )
    orphan_timeout: float = flag(
        "--orphan-timeout",
        DURATION,
        default="15m",
        help="End the sandbox when nobody held the control door for so long",
    )
    otlp_endpoint: str | None = otlp_flag()
    log_level: str = flag(
        "--log-level", LOG_LEVEL, default="info", help="How much is logged"
    )

    @property
    def control_socket(self) -> Path:
        """The socket of the control door."""
        return Path(self.control_listen.removeprefix("unix:"))

    @property
    def router(self) -> SpiffeID:
        """Who is admitted in mtls mode."""
        return _told(self.router_id)

    @property
    def keys(self) -> Path:
        """The Routers' public keys in jwt mode."""
        return _told(self.jwt_public_keys_file)

    @property
    def runner_limits(self) -> Limits:
        """The limits in force."""
        told: dict[str, Any] = dict(self.limits)
        return Limits(**told)

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong between the flags."""
        yield from self._missing()
        try:
            self.runner_limits  # noqa: B018  # made to be checked
        except InvalidRequestError as error:
            yield f"--limit: {error}", "raise memory, or lower what does not fit"
        if not self.control_listen.startswith("unix:"):
            yield (
                f"--control-listen {self.control_listen} is no Unix socket",
                "the control door knows its peer by the socket: pass unix:/path",
            )
        if self.allow_network and self.isolation != "bwrap":
            yield (
                f"--allow-network is not there for --isolation {self.isolation}",
                "take --isolation bwrap, or no network",
            )
        if self.listen == self.control_listen:
            yield ("both doors are at the same address", "give each its own path")
        if self.picod_auth_mode == "jwt" and not self.listen.startswith("unix:"):
            yield (
                f"--picod-auth-mode jwt cannot listen on {self.listen}",
                "nothing is encrypted in this mode: pass unix:/path, or use mtls",
            )

    def _missing(self) -> Iterable[Fault]:
        mode = self.picod_auth_mode
        name, value = {
            "mtls": ("--router-id", self.router_id),
            "jwt": ("--jwt-public-keys-file", self.jwt_public_keys_file),
        }[mode]
        if value is None:
            yield f"{name} is not set", f"--picod-auth-mode {mode} needs it"
        if mode == "mtls" and self.identity_fd is None:
            yield from self.identity_faults()
        elif mode == "mtls":
            yield from self._second_sources()

    def _second_sources(self) -> Iterator[Fault]:
        """Yield what would be an identity beside the one that is handed over."""
        for name in self.identity_told:
            yield (
                f"{name} and --identity-fd are both set",
                "what comes through --identity-fd is whole: leave the other out",
            )
