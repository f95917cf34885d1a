"""The authority as a process: the only one that holds the services' CA key.

Where SPIRE has that key, it only keeps the local user's identity as files.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from authority._authority import Authority
from authority._copier import Copier
from authority._errors import AuthorityError
from authority._files import private_folder, publish_bundle
from authority._keeper import Holder, keep
from authority._logs import configure_logging
from authority._settings import Settings, SettingsError
from clock import SYSTEM
from tlsloader import MaterialError, SpiffeID
from tlsloader.workload import WorkloadAPISource

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONFIG, _IO = 78, 74  # EX_CONFIG and EX_IOERR of sysexits.h


def holders_of(settings: Settings) -> tuple[Holder, ...]:
    """Return who gets an identity.

    Only the Router's has names beside its SPIFFE ID: the SDK speaks gRPC's own TLS
    to it, which can check nothing but names.
    """
    domain, namespace = settings.trust_domain, settings.namespace
    folder = settings.state / "identities"
    account = f"/ns/{namespace}/sa"
    return (
        Holder(
            SpiffeID(domain, f"{account}/agentcube-router"),
            folder / "router",
            ("agentcube-router", f"agentcube-router.{namespace}.svc", "localhost"),
            ("127.0.0.1", "::1"),
        ),
        Holder(
            SpiffeID(domain, f"{account}/workloadmanager"), folder / "workloadmanager"
        ),
        Holder(SpiffeID(domain, f"/user/{settings.user}"), folder / "user"),
    )


async def make(settings: Settings) -> None:
    """Make what is missing, say so, and renew it until cancelled."""
    authority = await asyncio.to_thread(_authority, settings)
    holders = holders_of(settings)
    await keep(authority, holders, life=settings.svid_ttl, ready=_say_ready)


async def take(settings: Settings, agent: str) -> None:
    """Keep the user's identity as *agent* gives it, until cancelled."""
    user = holders_of(settings)[-1]
    source = await WorkloadAPISource.load(agent, spiffe_id=user.identity)
    await asyncio.to_thread(private_folder, settings.state)
    copier = Copier(source, user.folder, settings.state / "bundles")
    await copier.write()
    _say_ready()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(source.follow())
        tasks.create_task(copier.keep())


async def serve(settings: Settings) -> None:
    """Do the one or the other until a signal comes."""
    loop, main_task = asyncio.get_running_loop(), asyncio.current_task()
    assert main_task is not None  # noqa: S101 -- a coroutine runs in a task
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main_task.cancel)
    agent = settings.agent
    with suppress(asyncio.CancelledError):
        await (make(settings) if agent is None else take(settings, agent))


def _authority(settings: Settings) -> Authority:
    domain, state = settings.trust_domain, private_folder(settings.state)
    authority = Authority.load_or_create(state / "authority", domain, now=SYSTEM.now())
    publish_bundle(state / "bundles" / f"{domain}.pem", authority.bundle)
    return authority


def _say_ready() -> None:
    print(json.dumps({"ready": True}), flush=True)


def _refuse(faults: Sequence[tuple[str, str]], status: int) -> None:
    for error, hint in faults:
        print(f"error: {error}\nhint: {hint}", file=sys.stderr)
    sys.exit(status)


@click.command(context_settings={"auto_envvar_prefix": "CUBEMESH_AUTHORITY"})
@click.option("--state", help="Folder of the mesh; keys live below it.")
@click.option("--trust-domain", default="cluster.local", show_default=True)
@click.option("--namespace", default="agentcube-system", show_default=True)
@click.option("--user", help="Name of the local caller, as in spiffe://…/user/NAME.")
@click.option(
    "--svid-ttl",
    default="1h",
    show_default=True,
    help="Life of an identity, at least 2s; renewed at its half.",
)
@click.option(
    "--spiffe-endpoint-socket",
    help="Make nothing: keep the user's identity as this SPIFFE agent gives it.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def main(log_level: str, **flags: str | None) -> None:
    """Make the services' CA and keep their identities and the user's fresh.

    With an agent, only the user's, and no CA.
    """
    configure_logging(log_level, sys.stderr)
    try:
        settings = Settings.read(flags)
        asyncio.run(serve(settings))
    except SettingsError as error:
        _refuse(error.faults, _CONFIG)
    except AuthorityError as error:
        _refuse([(str(error), error.hint)], _CONFIG)
    except MaterialError as error:
        hint = "make an entry for this process at the SPIRE server"
        _refuse([(str(error), hint)], _CONFIG)
    except OSError as error:
        hint = "check the rights and the free space of the --state folder"
        _refuse([(str(error), hint)], _IO)


if __name__ == "__main__":
    main(prog_name="python -m authority")
