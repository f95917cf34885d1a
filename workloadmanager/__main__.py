"""The WorkloadManager's composition root: the only module that knows every part."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cubemesh.v1 import workloadmanager_pb2_grpc
from serving import (
    DoorFigures,
    FatalError,
    Health,
    Hosted,
    IdentityFigures,
    Metrics,
    SettingsError,
    announce,
    configure_logging,
    follow_identity,
    new_server,
    parse,
    run,
    serve,
    start_metrics,
    stop_on_signals,
    tracing,
)
from workloadmanager._census import Registry
from workloadmanager._door import Entrance, entrance
from workloadmanager._errors import StateError, TemplateFileError
from workloadmanager._figures import Figures
from workloadmanager._forkserver import ForkServer
from workloadmanager._identities import Identities
from workloadmanager._local import LocalEngine
from workloadmanager._needs import missing
from workloadmanager._picod import Plan
from workloadmanager._published import Published
from workloadmanager._servicer import WorkloadManagerServicer
from workloadmanager._sessions import Sessions
from workloadmanager._settings import Settings
from workloadmanager._state import StateFolder, private_folder
from workloadmanager._store import Store
from workloadmanager._templatesource import TemplateSource
from workloadmanager._uids import Uids, default_range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authority import Issuer

_GRACE = 10.0
_PATH = os.environ.get("PATH", os.defpath)
_UID_MAP = Path("/proc/self/uid_map")


async def host(settings: Settings) -> None:
    """Assemble the WorkloadManager and serve until told to stop.

    SIGTERM leaves the sandboxes alive for the next start; SIGINT ends them all.
    """
    templates = _templates(settings)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        received = stack.enter_context(stop_on_signals(stop))
        traces = tracing("workloadmanager", settings.otlp_endpoint)
        await stack.enter_async_context(traces)
        state = _state(settings)
        stack.callback(state.close)
        try:
            store = await Store.open(state.store)
        except StateError as error:
            raise FatalError(str(error), error.hint) from error
        stack.push_async_callback(store.close)
        door = await _entrance(settings)
        issuer = await _issuer(settings, state)
        published = Published(issuer, state.bundle(settings.sandbox_domain))
        await published.write()
        lacking = partial(missing, level=settings.isolation, path=_PATH)
        following = (published.follow(), templates.follow(lacking))
        door = door._replace(jobs=(*door.jobs, *following))
        identities = _identities(settings, issuer, door)
        plan = _plan(settings, state, door.own_id)
        forks = ForkServer(
            plan.python, plan.environment(), traces=plan.otlp_endpoint is not None
        )
        await stack.enter_async_context(forks.running())
        registry = Registry()
        engine = LocalEngine(
            plan,
            forks=forks,
            identities=identities,
            uids=_uids(settings, registry),
            registry=registry,
        )
        await stack.enter_async_context(aclosing(engine))
        sessions = Sessions(
            store=store,
            engine=engine,
            templates=templates.templates,
            capacity=settings.capacity,
        )
        async with sessions.running(), identities.running():
            await _serve(settings, sessions, door, identities, stop)
            if received[:1] == [signal.SIGINT]:
                await sessions.delete_all("shutdown")


async def _serve(
    settings: Settings,
    sessions: Sessions,
    door: Entrance,
    identities: Identities,
    stop: asyncio.Event,
) -> None:
    health, metrics = Health("cubemesh.v1.WorkloadManager"), Metrics()
    metrics.registry.register(Figures(sessions, identities))
    if door.source is not None:
        metrics.registry.register(IdentityFigures(door.source, health))
    doors = {"workloadmanager": door.acceptor.tally} if door.acceptor else {}
    metrics.registry.register(DoorFigures(doors))
    server = new_server([metrics.calls, *door.interceptors], health=health)
    servicer = WorkloadManagerServicer(sessions, isolation=settings.isolation)
    workloadmanager_pb2_grpc.add_WorkloadManagerServicer_to_server(servicer, server)
    with start_metrics(settings.metrics_listen, metrics) as figures:
        await serve(
            Hosted(server, settings.listen, door.acceptor),
            jobs=[
                *door.jobs,
                *([follow_identity(health, door.source)] if door.source else ()),
                _let_watchers_go(sessions, stop),
            ],
            stop=stop,
            health=health,
            grace=_GRACE,
            ready=lambda at: announce(listen=at[0], metrics=figures),
        )


async def _let_watchers_go(sessions: Sessions, stop: asyncio.Event) -> None:
    """End what would never end by itself, so that the rest can be waited for."""
    await stop.wait()
    sessions.feed.close()


def _templates(settings: Settings) -> TemplateSource:
    try:
        source = TemplateSource.load(settings.templates)
    except TemplateFileError as error:
        hint = "docs/reference/templates.md tells what a template holds"
        raise SettingsError([(fault, hint) for fault in error.faults]) from error
    if faults := list(missing(source.templates, settings.isolation, _PATH)):
        raise SettingsError(faults)
    return source


def _state(settings: Settings) -> StateFolder:
    try:
        private_folder(settings.runtime)
        return StateFolder.open(settings.state)
    except StateError as error:
        raise FatalError(str(error), error.hint) from error
    except OSError as error:
        hint = "choose another --runtime"
        raise FatalError(f"cannot use the runtime folder: {error}", hint) from error


async def _entrance(settings: Settings) -> Entrance:
    """Return the door; our own identity must not be one that we could make."""
    door = await entrance(settings)
    if door.source is None:
        return door
    own = door.source.current().identity
    if own.trust_domain != settings.trust_domain:
        for job in door.jobs:
            job.close()
        text = f"our identity {own} is not of --trust-domain {settings.trust_domain}"
        raise FatalError(text, f"say --trust-domain {own.trust_domain}")
    return door


async def _issuer(settings: Settings, state: StateFolder) -> Issuer:
    return await settings.issuer(
        settings.sandbox_domain,
        settings.namespace,
        own=state.authority,
        bundle=state.bundle(settings.sandbox_domain),
    )


def _identities(settings: Settings, issuer: Issuer, door: Entrance) -> Identities:
    """Return the sandboxes' identities, which follow the Router's roots."""
    source, router = door.source, settings.router_id

    def foreign() -> Mapping[str, bytes]:
        if source is None or router is None:
            return {}
        found = source.current().bundles.get(router.trust_domain)
        return {} if found is None else {router.trust_domain: found.pem}

    identities = Identities(issuer, namespace=settings.namespace, foreign=foreign)
    if source is not None:
        source.subscribe(lambda _: identities.refresh())
    return identities


def _plan(settings: Settings, state: StateFolder, own_id: str) -> Plan:
    return Plan(
        runtime=settings.runtime.absolute(),
        logs=state.logs,
        isolation=settings.isolation,
        auth_mode=settings.picod_auth_mode,
        router_id=str(settings.router_id or ""),
        own_id=own_id,
        public_keys=settings.jwt_public_keys_file,
        python=str(settings.picod_python),
        log_level=settings.log_level,
        path=_PATH,
        otlp_endpoint=settings.otlp_endpoint,
    )


def _uids(settings: Settings, registry: Registry) -> Uids:
    span = settings.sandbox_uid_range or default_range(_UID_MAP)
    return Uids(span, busy=registry.users)


def main() -> int:
    """Be the WorkloadManager that flags and environment tell of, to its end."""
    os.umask(0o077)
    told = parse(Settings, sys.argv[1:], os.environ, prog="workloadmanager")
    configure_logging("workloadmanager", told.log_level)
    return run(host(told))


if __name__ == "__main__":
    sys.exit(main())
