"""How the commands speak: data on standard output, the rest on standard error.

Errors are ``error:``, then ``hint:``; no capital initials, no periods at the end.
Exit status: 125 when we failed ourselves, 78 when something is set up wrongly, 124 for
a timeout, 128 + n for a signal, otherwise the command's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cubemesh._errors import ConfigurationError, CubeMeshError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

OWN_FAILURE = 125
MISCONFIGURED = 78
_SIGNAL = 128


def say_error(message: str, hint: str = "") -> None:
    """Print an error and what to do about it."""
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def print_json(data: Any) -> None:
    """Print *data* as one JSON object or list."""
    click.echo(json.dumps(data, default=_plain, ensure_ascii=False))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print *rows*, the first of which names the columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def run(work: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run *work* and exit with what it returns; SIGTERM ends it as Ctrl-C does."""
    received: list[int] = []

    async def main() -> int | None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def end() -> None:
            received.append(signal.SIGTERM)
            if task is not None:
                task.cancel()

        loop.add_signal_handler(signal.SIGTERM, end)
        return await work

    try:
        status = asyncio.run(main())
    except asyncio.CancelledError:
        status = _SIGNAL + (received[0] if received else signal.SIGINT)
    except BrokenPipeError:  # who read our output is gone, so nobody needs a word
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _SIGNAL + signal.SIGPIPE
    sys.exit(status or 0)


@contextmanager
def reporting() -> Iterator[None]:
    """Turn whatever ends a command into words and an exit status."""
    try:
        yield
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        say_error(_lowered(error.format_message()), _usage_hint(error))
        sys.exit(OWN_FAILURE)
    except ConfigurationError as error:
        say_error(str(error), error.hint)
        sys.exit(MISCONFIGURED)
    except CubeMeshError as error:
        say_error(str(error), error.hint)
        sys.exit(getattr(error, "status", OWN_FAILURE) or OWN_FAILURE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_SIGNAL + signal.SIGINT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say_error(f"{where}{_lowered(error.strerror or str(error))}")
        sys.exit(OWN_FAILURE)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else ""


def _lowered(text: str) -> str:
    first = text[:1].lower() if text[1:2].islower() else text[:1]
    return f"{first}{text[1:]}".rstrip(".")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
