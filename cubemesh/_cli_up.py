"""``cubemesh up``."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
from pathlib import Path

import click

from cubemesh._machine import require
from cubemesh._options import Duration, json_option, profile_option
from cubemesh._profile import locate
from cubemesh._spire import Programs
from cubemesh._terminal import print_json
from cubemesh._up import Running, Wishes, up

_ENVIRON = os.environ  # noqa: TID251 - a command is where the environment enters
_LISTEN = "127.0.0.1:0"
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._-]")


@click.command("up")
@click.option("--state", type=Path, help="Where keys, sessions and logs are kept.")
@click.option("--listen", default=_LISTEN, help="HOST:PORT of the Router; 0: any.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    help="Processes of the Router; they share its port.",
)
@click.option(
    "--picod-auth-mode",
    type=click.Choice(["mtls", "jwt"]),
    default="mtls",
    help="How Router and sandboxes prove themselves.",
)
@click.option("--svid-ttl", default="1h", help="How long certificates live.")
@click.option(
    "--isolation",
    type=click.Choice(["bwrap", "gvisor", "none"]),
    default="bwrap",
    help="What separates code from this machine; none: nothing.",
)
@click.option(
    "--spire",
    is_flag=True,
    help="Identities from the real SPIRE, started here as well.",
)
@click.option(
    "--otlp-endpoint", default="", help="Send traces there: http://HOST:4317 (gRPC)."
)
@profile_option
@json_option
def up_command(  # noqa: PLR0913 - one per option
    *,
    state: Path | None,
    listen: str,
    workers: int,
    picod_auth_mode: str,
    svid_ttl: str,
    isolation: str,
    spire: bool,
    otlp_endpoint: str,
    profile: str | None,
    as_json: bool,
) -> None:
    """Run the whole mesh on this machine, in the foreground.

    Writes the profile that the SDK and all other commands then use by themselves.
    Ctrl-C ends it with all sandboxes; only the state folder stays.
    """
    Duration().convert(svid_ttl, None, None)
    require(isolation)
    path = locate(profile, _ENVIRON)
    wishes = Wishes(
        state=state or _default_state(path),
        profile=path,
        listen=listen,
        user=_user(),
        auth_mode=picod_auth_mode,
        svid_ttl=svid_ttl,
        isolation=isolation,
        spire=Programs.find(_ENVIRON) if spire else None,
        otlp_endpoint=otlp_endpoint,
        workers=workers,
    )
    if isolation == "none":
        click.echo("warning: no isolation: code can do all that you can do", err=True)
    asyncio.run(
        up(
            wishes,
            _ENVIRON,
            ready=lambda running: _announce(running, as_json=as_json),
            restarted=_tell_restart,
            stopping=lambda: click.echo("stopping; Ctrl-C again hurries", err=True),
        )
    )


def _announce(running: Running, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "ready": True,
                "address": running.profile.address,
                "profile": str(running.profile_path),
                "state": str(running.state),
                "runtime": str(running.runtime),
                "pids": dict(running.pids),
                "metrics": dict(running.metrics),
            }
        )
        return
    click.echo(f"the mesh is up at {running.profile.address}")
    click.echo(f"  profile  {running.profile_path}")
    click.echo(f"  state    {running.state}")
    for name, addresses in running.metrics.items():
        for address in addresses.split(","):  # workers have one each
            click.echo(f"  metrics  {name} http://{address}/metrics")
    click.echo("try: cubemesh run -c 'print(6*7)'; Ctrl-C ends it")


def _tell_restart(name: str, status: int) -> None:
    how = f"signal {-status}" if status < 0 else f"status {status}"
    click.echo(f"warning: {name} ended with {how}; starting it again", err=True)


def _default_state(profile: Path) -> Path:
    home = _ENVIRON.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "cubemesh" / profile.stem


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = f"uid-{os.getuid()}"
    return _NOT_IN_IDS.sub("_", name).strip(".") or "user"
