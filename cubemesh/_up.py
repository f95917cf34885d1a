"""`cubemesh up`: the whole mesh as processes of this machine, under one roof."""

from __future__ import annotations

import asyncio
import secrets
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubemesh._errors import ConfigurationError
from cubemesh._parts import parts
from cubemesh._plan import TRUST_DOMAIN, Plan, Realm, environment_of
from cubemesh._profile import Profile
from cubemesh._service import ServiceError
from cubemesh._state import claim, is_in_use

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from cubemesh._spire import Programs
    from cubemesh._state import State


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller of `cubemesh up` decided."""

    state: Path
    profile: Path
    listen: str
    user: str
    auth_mode: str = "mtls"
    svid_ttl: str = "1h"
    isolation: str = "bwrap"
    spire: Programs | None = None
    otlp_endpoint: str = ""
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A mesh that is up."""

    profile: Profile
    profile_path: Path
    state: Path
    runtime: Path
    pids: Mapping[str, int | None]
    metrics: Mapping[str, str]


class Signals:
    """Ctrl-C and SIGTERM: the first ends in order, the second in haste."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()

    def receive(self) -> None:
        """Count one more."""
        (self.hurry if self.stop.is_set() else self.stop).set()


async def up(
    wishes: Wishes,
    environ: Mapping[str, str],
    *,
    ready: Callable[[Running], None],
    restarted: Callable[[str, int], None],
    stopping: Callable[[], None],
) -> None:
    """Run the mesh until a signal; leave nothing but the state folder.

    *ready* is told once when it serves, *restarted* of each service that ended by
    itself, with its exit status, *stopping* when the end begins.

    Raises:
        ConfigurationError: state folder or profile cannot be used.
        ServiceError: a service does not start or does not stay.

    """
    signals = Signals()
    with _received(signals), claim(wishes.state, environ) as state:
        _refuse_second(wishes.profile, state)
        realm = None
        if wishes.spire is not None:
            realm = await asyncio.to_thread(Realm.make, state, wishes.spire)
        plan = Plan(
            state=state,
            user=wishes.user,
            auth_mode=wishes.auth_mode,
            svid_ttl=wishes.svid_ttl,
            isolation=wishes.isolation,
            realm=realm,
            otlp_endpoint=wishes.otlp_endpoint,
            workers=wishes.workers,
        )
        house = _House(wishes, plan, environ, signals)
        try:
            await house.open(restarted, ready)
        finally:
            stopping()
            await house.close()


class _House:
    def __init__(
        self, wishes: Wishes, plan: Plan, environ: Mapping[str, str], signals: Signals
    ) -> None:
        self._wishes, self._state, self._signals = wishes, plan.state, signals
        self._listen = wishes.listen
        self._profile: Profile | None = None
        traces = bool(plan.otlp_endpoint)
        told = environment_of(environ, plan.state.runtime, traces=traces)
        made = parts(plan, told, lambda: self._listen)
        self._parts = {part.service.name: part for part in made}

    async def open(
        self,
        restarted: Callable[[str, int], None],
        ready: Callable[[Running], None],
    ) -> None:
        """Start all, one after the other, and keep them until told to stop."""
        said: dict[str, dict[str, Any]] = {}
        for name, part in self._parts.items():
            answer = await self._unless_stopped(part.begin())
            if answer is None:
                return
            said[name] = answer
        self._listen = said["router"]["listen"]  # a restart takes the same address
        ready(self._announce(said))
        keepers = [
            part.service.keep(lambda one, status: restarted(one.name, status))
            for part in self._parts.values()
        ]
        await self._unless_stopped(_first_failure(keepers))

    async def close(self) -> None:
        """Stop in the order that loses nothing: callers, sandboxes, identities."""
        if self._profile is not None:
            self._profile.remove(self._wishes.profile)
        hurrying = asyncio.ensure_future(self._hurry())
        try:
            for part in reversed(self._parts.values()):
                await part.service.stop(part.ending, *part.graces)
        finally:
            hurrying.cancel()

    async def _hurry(self) -> None:
        await self._signals.hurry.wait()
        for name in ("router", "authority"):  # the sandboxes must still be ended
            self._parts[name].service.kill()

    def _announce(self, said: Mapping[str, Mapping[str, Any]]) -> Running:
        chain, key = self._state.identity("user")
        self._profile = profile = Profile(
            address=_reachable(self._listen),
            ca_file=str(self._state.bundle(TRUST_DOMAIN)),
            cert_file=str(chain),
            key_file=str(key),
            state=str(self._state.root),
            instance=secrets.token_hex(8),
        )
        profile.write(self._wishes.profile)
        return Running(
            profile=profile,
            profile_path=self._wishes.profile,
            state=self._state.root,
            runtime=self._state.runtime,
            pids={name: part.service.pid for name, part in self._parts.items()},
            metrics={n: m for n, s in said.items() if (m := s.get("metrics"))},
        )

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what *work* returns, or ``None`` as soon as a signal came."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._signals.stop.wait())
        both = (working, stopping)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)


async def _first_failure(keepers: list[Coroutine[Any, Any, None]]) -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            for keeper in keepers:
                tasks.create_task(keeper)
    except* ServiceError as group:
        failure = group.exceptions[0]
    raise failure


@contextmanager
def _received(signals: Signals) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    both = (signal.SIGINT, signal.SIGTERM)
    for each in both:
        loop.add_signal_handler(each, signals.receive)
    try:
        yield
    finally:
        for each in both:
            loop.remove_signal_handler(each)


def _refuse_second(path: Path, state: State) -> None:
    """Do not take over the profile of a mesh that runs; a dead one's is replaced."""
    if not path.exists():
        return
    other = Profile.load(path).state
    if other and Path(other) != state.root and is_in_use(Path(other)):
        message = f"the profile {path} belongs to a mesh that runs, on {other}"
        raise ConfigurationError(message, hint="choose another name with --profile")


def _reachable(listen: str) -> str:
    """Return where a client of this machine reaches *listen*."""
    host, _, port = listen.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - not for binding
    return f"{local.get(host, host)}:{port}"
