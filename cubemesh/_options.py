"""Options that several commands share."""

from __future__ import annotations

import re
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
    """``NAME=VALUE``."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return both halves."""
        if isinstance(value, tuple):
            return value
        name, sign, content = str(value).partition("=")
        if not sign or not name:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, content


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
