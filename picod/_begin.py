"""The start of a runner: its level, then its group, its network and its greeting."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from picod import _messages as messages
from picod._bundle import bundle
from picod._errors import IsolationError
from picod._greeting import greet
from picod._inodes import limit_inodes
from picod._link import Link
from picod._network import NAMESERVER, Network
from picod._spawn import spawn_bwrap, spawn_gvisor, spawn_none
from picod._types import Limits
from picod._values import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from picod._groups import Group
    from picod._messages import Stages
    from picod._spawn import Spawned

__all__ = ["Begun", "Wanted", "begin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a sandbox is to be."""

    level: Literal["bwrap", "gvisor", "none"] = "bwrap"
    uid: int | None = None
    """The host's user to run as; only root can choose another than itself."""
    limits: Limits = field(default_factory=Limits)
    python: str = "/usr/bin/python3"
    """The interpreter, at least 3.9."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For every command, besides PATH, HOME and the like."""
    imports: Sequence[str] = ()
    """Packages that interpreters have imported from the start."""
    folder: Path | None = None
    """For `none` the private folder to work in, for `gvisor` one for its bundle, which
    the host's user may pass."""
    group: Group | None = None
    """Keeps memory and processes within the limits; None: the runner does."""
    network: bool = False
    """Whether it gets a network of its own; only behind bwrap."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A runner that is ready, and what is around it."""

    link: Link
    network: Network | None
    stages: Stages
    python: str


async def begin(wanted: Wanted) -> Begun:
    """Start a runner and wait until it is ready.

    Raises:
        IsolationError: not here; then no process of it is left.

    """
    began = time.monotonic_ns()
    spawned = _spawn(wanted)
    made = time.monotonic_ns()
    link = Link(spawned)
    network = None
    try:
        if wanted.network:
            network = await Network.attach(link.pid, wanted.uid)
        link.send(bundle())
        if wanted.group is not None:  # slow on a busy machine: the runner loads beside
            await asyncio.to_thread(_limit, wanted.group, link.pid)
        hello = await greet(
            link,
            wanted.limits,
            spawned.place,
            wanted.environment,
            wanted.imports,
            watch=wanted.group is None,
        )
    except BaseException:
        if network is not None:
            await network.aclose()
        link.close()
        link.kill()
        await asyncio.shield(link.ended)
        raise
    if link.inner and os.geteuid() == 0:
        limit_inodes(link.inner, wanted.limits)
    version = text(hello, b"python").decode("ascii", "replace")
    return Begun(link, network, messages.stages(hello, began, made), version)


def _spawn(wanted: Wanted) -> Spawned:
    uid, python = wanted.uid, wanted.python
    if wanted.level == "none":
        return spawn_none(uid=uid, python=python, folder=wanted.folder)
    if wanted.level == "gvisor":
        return spawn_gvisor(
            uid=uid, limits=wanted.limits, python=python, folder=wanted.folder
        )
    resolver = NAMESERVER if wanted.network else ""
    return spawn_bwrap(uid=uid, limits=wanted.limits, python=python, resolver=resolver)


def _limit(group: Group, pid: int) -> None:
    """Put the runner into its group, before HELLO lets it fork."""
    try:
        group.take(pid)
    except OSError as error:
        raise IsolationError(f"the control group does not take it: {error}") from error
