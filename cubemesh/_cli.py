"""The command line: which commands there are; each is loaded when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import click

from cubemesh._terminal import reporting

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {
    "up": ("_cli_up", "Run the whole mesh on this machine, in the foreground."),
    "run": ("_cli_run", "Run Python in a fresh sandbox."),
    "exec": ("_cli_run", "Run a command in the sandbox of a session."),
    "cp": ("_cli_files", "Copy a file into or out of a sandbox."),
    "rm": ("_cli_files", "Remove a file of a sandbox."),
    "sessions": ("_cli_sessions", "List your live sessions."),
    "kill": ("_cli_sessions", "End sessions with all that is in them."),
    "logs": ("_cli_logs", "Show what the services of a local mesh log."),
    "doctor": ("_cli_doctor", "Look for what is wrong with this machine or mesh."),
    "bench": ("_cli_bench", "Measure a mesh on this machine."),
    "demo": ("_cli_demo", "Run untrusted code through a mesh and show every proof."),
    "version": ("_cli_version", "Tell the version."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        room = import_module(f"cubemesh.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(room, f"{cmd_name}_command")
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy)
def cli() -> None:
    """Run code nobody trusts in sandboxes, behind a mesh that proves who is who."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command that *argv* names and exit."""
    with reporting():
        cli.main(args=argv, prog_name="cubemesh", standalone_mode=False)
    raise SystemExit(0)
