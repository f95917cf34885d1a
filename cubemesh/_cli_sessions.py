"""``cubemesh sessions`` and ``cubemesh kill``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cubemesh._options import json_option, profile_option
from cubemesh._sandbox import AsyncSandbox
from cubemesh._session import Mesh
from cubemesh._terminal import print_json, print_table, run

if TYPE_CHECKING:
    from datetime import datetime

    from cubemesh._values import SessionInfo


@click.command("sessions")
@profile_option
@json_option
def sessions_command(*, profile: str | None, as_json: bool) -> None:
    """List your live sessions, oldest first."""

    async def work() -> None:
        found = await AsyncSandbox.list(profile=profile)
        if as_json:
            print_json(found)
            return
        header = ("SESSION", "TEMPLATE", "STATE", "ISOLATION", "CREATED", "EXPIRES")
        print_table([header, *(_row(info) for info in found)])

    run(work())


@click.command("kill")
@click.option("--all", "everything", is_flag=True, help="All of your sessions.")
@profile_option
@json_option
@click.argument("sessions", nargs=-1, metavar="SESSION…")
def kill_command(
    *, everything: bool, profile: str | None, as_json: bool, sessions: tuple[str, ...]
) -> None:
    """End sessions with their processes and files; to remove a file: cubemesh rm."""
    if everything == bool(sessions):
        message = "name sessions, or say --all"
        raise click.UsageError(message)

    async def work() -> None:
        mesh = Mesh.join(profile)
        try:
            names = sessions or [info.session_id for info in await mesh.list()]
            for name in names:
                await mesh.delete(name)
                if not as_json:
                    click.echo(name)
            if as_json:
                print_json({"killed": list(names)})
        finally:
            mesh.leave()

    run(work())


def _row(info: SessionInfo) -> tuple[str, ...]:
    return (
        info.session_id,
        info.template,
        info.state if not info.last_fault else f"{info.state} ({info.last_fault})",
        info.isolation if info.own_uid else f"{info.isolation} (shared user)",
        _short(info.created_at),
        _short(info.expires_at),
    )


def _short(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
