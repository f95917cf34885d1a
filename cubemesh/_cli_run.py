"""``cubemesh run`` and ``cubemesh exec``: output as it comes, its status is ours."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from cubemesh._options import (
    Assignment,
    Copy,
    Duration,
    env_option,
    json_option,
    profile_option,
    timeout_option,
)
from cubemesh._sandbox import AsyncSandbox
from cubemesh._terminal import print_json, run
from cubemesh._values import CommandExited, CommandOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

_ENDED_WITHOUT_STATUS = 125
_OPTIONS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@dataclass(frozen=True, slots=True)
class _Order:
    argv: Sequence[str]
    options: dict[str, Any]
    as_json: bool
    pieces: dict[str, list[bytes]] = field(
        default_factory=lambda: {"stdout": [], "stderr": []}
    )


@click.command("run", context_settings=_OPTIONS)
@click.option("-c", "code", help="Run this text.")
@click.option("--template", default="", help="What the sandbox is made from.")
@click.option("--lifetime", type=Duration(), help="How long it lives at most.")
@click.option("--stdin", "-i", "pass_stdin", is_flag=True, help="Pass our input on.")
@click.option(
    "--file",
    "files",
    type=Copy(),
    multiple=True,
    help="A file of ours to be there, by its name or at PATH; repeatable.",
)
@click.option(
    "--secret",
    "secrets",
    type=Assignment("name=file"),
    multiple=True,
    help="What FILE holds, as $CUBEMESH_SECRETS/NAME; repeatable.",
)
@timeout_option
@env_option
@profile_option
@json_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[FILE|-] ARGS…")
def run_command(  # noqa: PLR0913 - one per option
    *,
    code: str | None,
    template: str,
    lifetime: float | None,
    pass_stdin: bool,
    files: tuple[tuple[Path, str], ...],
    secrets: tuple[tuple[str, str], ...],
    timeout: float | None,
    environment: tuple[tuple[str, str], ...],
    profile: str | None,
    as_json: bool,
    arguments: tuple[str, ...],
) -> None:
    """Run Python in a fresh sandbox: a FILE, - for standard input, or -c CODE.

    Output comes as it is written. The exit status is that of the code; 124 after a
    timeout, 128 + n after signal n, 125 when CubeMesh itself failed.
    """
    name, content, rest = _script(code, arguments, pass_stdin=pass_stdin)
    options = _options(timeout, environment, pass_stdin=pass_stdin)
    order = _Order(["python3", "-u", name, *rest], options, as_json)
    placed = {path: local.read_bytes() for local, path in files}
    hidden = {secret: Path(file).read_bytes() for secret, file in secrets}

    async def work() -> int:
        made = AsyncSandbox.create(
            template=template,
            lifetime=lifetime,
            files=placed,
            secrets=hidden,
            profile=profile,
        )
        async with await made as sandbox:
            await sandbox.files.write(name, content)
            return await _execute(sandbox, order)

    run(work())


@click.command("exec", context_settings=_OPTIONS)
@click.option("--stdin", "-i", "pass_stdin", is_flag=True, help="Pass our input on.")
@click.option("--cwd", default="", help="Where to start; else the workspace.")
@timeout_option
@env_option
@profile_option
@json_option
@click.argument("session")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(  # noqa: PLR0913 - one per option
    *,
    pass_stdin: bool,
    cwd: str,
    timeout: float | None,
    environment: tuple[tuple[str, str], ...],
    profile: str | None,
    as_json: bool,
    session: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in the sandbox of SESSION: cubemesh exec SESSION -- ls -l.

    Output comes as it is written. The exit status is that of the command; 124 after a
    timeout, 128 + n after signal n, 125 when CubeMesh itself failed.
    """
    argv = command[1:] if command[0] == "--" else command
    if not argv:
        message = "no command"
        raise click.UsageError(message)
    options = _options(timeout, environment, pass_stdin=pass_stdin) | {"cwd": cwd}

    async def work() -> int:
        async with await AsyncSandbox.connect(session, profile=profile) as sandbox:
            return await _execute(sandbox, _Order(argv, options, as_json))

    run(work())


def _script(
    code: str | None, arguments: tuple[str, ...], *, pass_stdin: bool
) -> tuple[str, bytes, tuple[str, ...]]:
    """Return the name the code gets in the sandbox, the code, and its arguments."""
    if code is not None:
        return "command.py", code.encode(errors="surrogateescape"), arguments
    if not arguments:
        message = "nothing to run: name a FILE, - for standard input, or -c CODE"
        raise click.UsageError(message)
    file, rest = arguments[0], arguments[1:]
    if file != "-":
        return PurePath(file).name, Path(file).read_bytes(), rest
    if pass_stdin:
        message = "standard input cannot be both the code and its input"
        raise click.UsageError(message)
    return "stdin.py", sys.stdin.buffer.read(), rest


def _options(
    timeout: float | None, environment: tuple[tuple[str, str], ...], *, pass_stdin: bool
) -> dict[str, Any]:
    stdin = sys.stdin.buffer.read() if pass_stdin else b""
    return {"timeout": timeout, "env": dict(environment), "stdin": stdin}


async def _execute(sandbox: AsyncSandbox, order: _Order) -> int:
    events = sandbox.commands.stream(order.argv, **order.options)
    status = _ENDED_WITHOUT_STATUS
    async with aclosing(events):
        async for event in events:
            if isinstance(event, CommandOutput):
                await _pass_on(event, order)
            elif isinstance(event, CommandExited):
                status = event.exit_code
                if order.as_json:
                    _print(sandbox.session_id, event, order)
    return status


async def _pass_on(event: CommandOutput, order: _Order) -> None:
    if order.as_json:
        order.pieces[event.stream].append(event.data)
        return
    stream = sys.stdout.buffer if event.stream == "stdout" else sys.stderr.buffer

    def write() -> None:
        stream.write(event.data)
        stream.flush()

    await asyncio.to_thread(write)  # a slow reader slows the command, not our loop


def _print(session_id: str, event: CommandExited, order: _Order) -> None:
    text = {
        name: b"".join(pieces).decode(errors="replace")
        for name, pieces in order.pieces.items()
    }
    print_json(
        {
            "session_id": session_id,
            "exit_code": event.exit_code,
            "signal": event.signal,
            "timed_out": event.timed_out,
            "output_limit_reached": event.output_limit_reached,
            "memory_limit_reached": event.memory_limit_reached,
            "duration": event.duration,
            **text,
        }
    )
