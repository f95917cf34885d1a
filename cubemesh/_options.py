"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def span(text: str) -> float:
    """Return the seconds that *text* names.

    Raises:
        ValueError: it names no span of time.

    """
    found = _DURATION.fullmatch(text)
    if found is None:
        message = f"{text!r} is not a span of time like 5s, 1m or 1h"
        raise ValueError(message)
    if not (seconds := float(found[1]) * _UNITS[found[2] or "s"]):
        message = "a span of time must be above zero"
        raise ValueError(message)
    return seconds


class Duration(click.ParamType[float]):
    """A span of time such as ``90``, ``5s``, ``1.5m`` or ``1h``, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds that *value* names."""
        if isinstance(value, float):
            return value
        try:
            return span(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Assignment(click.ParamType[tuple[str, str]]):
    """``NAME=VALUE``, or what *name* calls it."""

    def __init__(self, name: str = "name=value") -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return both halves."""
        if isinstance(value, tuple):
            return value
        name, sign, content = str(value).partition("=")
        if not sign or not name:
            self.fail(f"{value!r} is not {self.name.upper()}", param, ctx)
        return name, content


class Copy(click.ParamType[tuple[Path, str]]):
    """``LOCAL``, or ``LOCAL:PATH`` with a PATH in the sandbox."""

    name = "local[:path]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, str]:
        """Return the local file, and where it is to be; a PATH/ is a directory."""
        if isinstance(value, tuple):
            return value
        local, colon, path = str(value).rpartition(":")
        if not colon:
            local, path = path, ""
        if not (name := Path(local).name):
            self.fail(f"{value!r} names no file", param, ctx)
        return Path(local), path if path and not path.endswith("/") else path + name


profile_option = click.option(
    "--profile",
    metavar="NAME|PATH",
    help="Which mesh; else CUBEMESH_PROFILE, else default.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
timeout_option = click.option(
    "--timeout", type=Duration(), help="Kill the command after this time (124)."
)
env_option = click.option(
    "--env",
    "-e",
    "environment",
    type=Assignment(),
    multiple=True,
    help="NAME=VALUE for the command; repeatable.",
)
