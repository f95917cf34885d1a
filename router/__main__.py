"""The Router's composition root: the only module that knows every part."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from auth import KeysError, Signer, SigningKeys
from clock import SYSTEM
from router._admission import Load
from router._callers import Callers
from router._forward import Limits
from router._house import House
from router._readiness import follow_sessions
from router._settings import Settings
from router._ways import ByCertificate, ByToken
from serving import (
    DoorFigures,
    FatalError,
    Health,
    Hosted,
    IdentityFigures,
    Metrics,
    announce,
    configure_logging,
    denied,
    follow_identity,
    new_server,
    parse,
    run,
    run_workers,
    serve,
    start_metrics,
    stop_on_signals,
    tracing,
)
from tlsloader import Acceptor, Allowlist, AllowlistFile, Dialer, Stay, Tally
from tlsloader.grpc import FRONT_SERVER_OPTIONS, Gate, channel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    import grpc

    from router._ways import Way
    from tlsloader import KeptSource, Source

    Job = Coroutine[Any, Any, Any]

_SERVICES = ("cubemesh.v1.Sessions", "cubemesh.v1.PicoD")


async def host(settings: Settings) -> None:
    """Assemble the Router and serve until told to stop."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(stop_on_signals(stop))
        traces = tracing("router", settings.otlp_endpoint, edge=True)
        await stack.enter_async_context(traces)
        source = await settings.identity()
        ways = await _ways(settings, source, stack)
        load = Load(settings.max_concurrent_calls, settings.max_calls_per_session)
        house = House(ways.manager, ways.sandboxes, load, SYSTEM, settings.dial_ahead)
        ways.jobs.append(source.follow())
        await _serve(settings, source, house, ways, stop)


class _Ways(NamedTuple):
    """Whom we reach, the jobs that keep the ways open, and what they tell of it."""

    manager: grpc.aio.Channel
    sandboxes: Way
    jobs: list[Job]
    dials: dict[str, Tally]


async def _serve(
    settings: Settings,
    source: KeptSource,
    house: House,
    ways: _Ways,
    stop: asyncio.Event,
) -> None:
    health, metrics = Health(*_SERVICES), Metrics()
    metrics.registry.register(house.figures())
    metrics.registry.register(IdentityFigures(source, health))
    door = Acceptor(
        source,
        allow=settings.clients(source.current().identity.trust_domain),
        minimum_tls=settings.tls_min_version,
        stay=Stay(busy=settings.max_stream_age),
        name="front",
        shared_port=settings.workers > 1,
    )
    callers = Callers(door, Allowlist(settings.admin_ids))
    lists = {
        "clients": await _listed(settings.client_ids_file, door.change_allowlist),
        "admins": await _listed(settings.admin_ids_file, callers.change_admins),
    }
    files = {name: each for name, each in lists.items() if each is not None}
    metrics.registry.register(DoorFigures({"front": door.tally}, ways.dials, files))
    server = new_server(
        [metrics.calls, Gate(callers.decide, door=door, refused=denied)],
        health=health,
        options=FRONT_SERVER_OPTIONS,
        reflection_of=_SERVICES if settings.reflection else (),
    )
    limits = Limits(settings.call_timeout, settings.max_stream_age)
    house.add_to(server, limits, unknown=settings.forward_unknown_methods)
    with start_metrics(settings.metrics_listen, metrics) as figures:
        await serve(
            Hosted(server, settings.listen, door),
            jobs=[
                *ways.jobs,
                *house.jobs(),
                *(each.follow() for each in files.values()),
                follow_sessions(health, house.watch),
                follow_identity(health, source),
            ],
            stop=stop,
            health=health,
            grace=settings.grace,
            ready=lambda at: announce(listen=at[0], metrics=figures),
        )


async def _listed(
    path: Path | None, change: Callable[[Allowlist], None]
) -> AllowlistFile | None:
    """Hand the list in *path* to *change*, now and whenever it is another one."""
    if path is None:
        return None
    found = await AllowlistFile.load(path)
    change(found.current())
    found.subscribe(change)
    return found


async def _ways(settings: Settings, source: Source, stack: AsyncExitStack) -> _Ways:
    dials = {"workloadmanager": Tally(), "sandbox": Tally()}
    dialer = partial(
        Dialer,
        source,
        minimum_tls=settings.tls_min_version,
        stay=Stay(busy=settings.max_stream_age),
    )
    way, jobs = await _way(settings, partial(dialer, tally=dials["sandbox"]))
    tally = dials["workloadmanager"]
    manager = await _manager(settings, partial(dialer, tally=tally), stack)
    return _Ways(manager, way, jobs, dials)


async def _way(
    settings: Settings, dialer: Callable[..., Dialer]
) -> tuple[Way, list[Job]]:
    """Return the way to the sandboxes, and the jobs that keep it open."""
    if settings.picod_auth_mode == "mtls":
        return ByCertificate(dialer), []
    assert settings.signing_key_file is not None  # noqa: S101 - Settings.faults
    assert settings.public_keys_file is not None  # noqa: S101 - Settings.faults
    rotation = settings.jwt_rotation
    try:
        keys = await SigningKeys.load(
            settings.signing_key_file,
            settings.public_keys_file,
            create=rotation is not None,
        )
    except KeysError as error:
        hint = "set --jwt-rotation 1h to have keys made here"
        raise FatalError(str(error), hint) from error
    await keys.ready()
    return ByToken(Signer(keys)), [keys.rotate(every=rotation)]


async def _manager(
    settings: Settings, dialer: Callable[..., Dialer], stack: AsyncExitStack
) -> grpc.aio.Channel:
    """Return the channel to the WorkloadManager; closed with *stack*."""
    target = settings.workloadmanager
    if settings.enable_mtls:
        assert settings.workloadmanager_id is not None  # noqa: S101 - Settings.faults
        behind = dialer(expected=settings.workloadmanager_id, address=target)
        target = await behind.start()
        stack.push_async_callback(behind.aclose)
    else:
        warning = "warning: the WorkloadManager is reached without mutual TLS"
        print(warning, file=sys.stderr)
    opened = channel(target)
    stack.push_async_callback(opened.close)
    return opened


def main() -> int:
    """Be the Router that flags and environment tell of; return the exit status."""
    os.umask(0o077)
    told = parse(Settings, sys.argv[1:], os.environ, prog="router")
    configure_logging("router", told.log_level)
    if told.workers == 1:
        return run(host(told))
    return run_workers(told.workers, told.listen, lambda *its: host(told.worker(*its)))


if __name__ == "__main__":
    sys.exit(main())
