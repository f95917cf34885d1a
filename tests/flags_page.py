"""The reference of all flags, made from what the services themselves read.

``python -m tests.flags_page`` writes the page (`make flags`).
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from authority.__main__ import main as authority
from picod._settings import Settings as PicoD
from router._settings import Settings as Router
from serving import IdentityFlags
from serving._settings import _KEY, _Found, _Option
from serving.doctor._settings import Settings as Doctor
from workloadmanager._settings import Settings as WorkloadManager

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "flags.md"
SERVICES: dict[str, type[IdentityFlags]] = {
    "router": Router,
    "workloadmanager": WorkloadManager,
    "picod": PicoD,
    "doctor": Doctor,
}
_PLACE = re.compile(r"(<!-- flags of (\w+) -->\n)(?:\|.*\n)*")
_HEAD = "| flag | environment | value | default | what it says |\n|---|---|---|---|---|"


def page() -> str:
    """Return the page with all its tables made anew."""
    return _PLACE.sub(lambda place: place[1] + _table(place[2]), PAGE.read_text())


def options(settings: type[Any], prog: str) -> Iterator[_Option]:
    """Yield what *settings* can be told, in their order."""
    for field in dataclasses.fields(settings):
        if _KEY in field.metadata:
            yield _Option.of(field, f"CUBEMESH_{prog.upper()}", _Found({}))


def _table(process: str) -> str:
    shared = [each.name for each in dataclasses.fields(IdentityFlags)]
    rows: Iterable[click.Option]
    match process:
        case "identity":
            rows = options(IdentityFlags, "<service>")
        case "authority":
            rows = [each for each in authority.params if isinstance(each, click.Option)]
        case _:
            own = options(SERVICES[process], process)
            rows = (each for each in own if each.field not in shared)
    return "\n".join((_HEAD, *map(_row, rows), ""))


def _row(option: click.Option) -> str:
    flags = "/".join((*option.opts, *option.secondary_opts))
    also = getattr(option, "also", ("",))[0]
    twin = option.envvar or f"CUBEMESH_AUTHORITY_{str(option.name).upper()}"
    twins = f"`{twin}`" + (f", then `{also}`" if also else "")
    text = (option.help or "").replace("<", "\\<")
    cells = (f"`{flags}`", twins, _kind(option), _default(option), text)
    return "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |"


def _kind(option: click.Option) -> str:
    if option.is_flag:
        return "yes or no"
    kind = option.type
    name = kind.name if not isinstance(kind, click.Choice) else ", ".join(kind.choices)
    return f"{name}; repeatable" if option.multiple else name


def _default(option: click.Option) -> str:
    if option.required:
        return "**required**"
    if option.is_flag:
        return "yes" if option.default else "no"
    if option.default == sys.executable:
        return "its own"
    match option.default:
        case float() as seconds:
            return f"`{seconds:g}s`"
        case str() | int() | Path() as value:
            return f"`{value}`"
    return ""  # none, or nothing yet of what can be repeated


if __name__ == "__main__":
    PAGE.write_text(page())
