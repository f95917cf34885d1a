"""What sandboxes can be made from: the built-in template and those of a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from workloadmanager._errors import TemplateNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "DEFAULT_MEMORY",
    "ISOLATION_LEVELS",
    "LIMITS",
    "PYTHON",
    "Template",
    "Templates",
]

ISOLATION_LEVELS = ("bwrap", "gvisor", "none")

# The limits that PicoD knows, with how each is written.
LIMITS: Mapping[str, str] = {
    "timeout": "duration",
    "output": "size",
    "memory": "size",
    "processes": "count",
    "open_files": "count",
    "file_size": "size",
    "cpu_seconds": "count",
    "workspace": "size",
    "scratch": "size",
    "inodes": "count",
}

DEFAULT_MEMORY = 1 << 30
"""PicoD's own limit, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How a sandbox is made.

    *isolation* empty: the service's default level. *python* empty: PicoD's choice.
    *imports* are the modules that code finds imported from the start.
    *limits* are in seconds, bytes or pieces, by the names of `LIMITS`; what is not
    named here has PicoD's own limit. *min_ready* and *max_ready* are how many wait for
    sessions; None: as the service is told.
    """

    name: str
    description: str = ""
    isolation: str = ""
    python: str = ""
    imports: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    allow_network: bool = False
    default_lifetime: timedelta = timedelta(hours=1)
    maximum_lifetime: timedelta = timedelta(hours=24)
    idle_timeout: timedelta = timedelta(minutes=15)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    min_ready: int | None = None
    max_ready: int | None = None


PYTHON = Template(name="python", description="Python and a shell in a small Linux")


class Templates:
    """Templates by name; the built-in one is there unless replaced."""

    def __init__(self, templates: Iterable[Template] = ()) -> None:
        named = {PYTHON.name: PYTHON} | {each.name: each for each in templates}
        self._named = dict(sorted(named.items()))

    def become(self, others: Templates) -> None:
        """Hold what *others* hold from now on."""
        self._named = dict(others._named)

    def __iter__(self) -> Iterator[Template]:
        return iter(self._named.values())

    def find(self, name: str) -> Template:
        """Return the template *name*.

        Raises:
            TemplateNotFoundError: there is none.
        """
        try:
            return self._named[name]
        except KeyError:
            raise TemplateNotFoundError(name) from None
