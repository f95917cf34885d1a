"""Cases: a small function with a name, and what it is run on.

    @case("exec/true@{mode}", mode=MODES)
    async def execute(at: At, *, mode: Mode) -> Measured:
        \"\"\"Run `true` in a sandbox that is there.\"\"\"

makes two cases, one for each choice of what is in braces. A case returns series by
name, or raises `NotAvailableError` where what it measures is not there: then the table
says so. Where a mode is chosen, ``at.mesh`` is a mesh of that mode; *needs* asks for
another one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal

from benchmarks._setup import MODES, NotAvailableError, Setup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from benchmarks._mesh import Mesh
    from benchmarks._series import Series

    Measured = Mapping[str, Series]
    Depth = Literal["quick", "standard", "full"]
    Function = Callable[..., Awaitable[Measured]]

__all__ = [
    "CASES",
    "DEPTHS",
    "MODES",
    "At",
    "Case",
    "NotAvailableError",
    "Setup",
    "case",
    "chosen",
]

DEPTHS: Final = ("quick", "standard", "full")
CASES: Final[dict[str, Case]] = {}
_SHARES: Final = {"quick": 0.25, "standard": 1.0, "full": 2.0}


@dataclass(frozen=True, slots=True)
class At:
    """What a case is given: a mesh, if it needs one, and how much time there is."""

    depth: Depth
    _mesh: Mesh | None = None

    @property
    def mesh(self) -> Mesh:
        """The mesh to measure."""
        assert self._mesh is not None  # noqa: S101 - the case says that it needs one
        return self._mesh

    def seconds(self, standard: float) -> float:
        """Return how long to measure what gets *standard* seconds in a usual run."""
        return standard * _SHARES[self.depth]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is measured; *depth* is the shortest run that includes it."""

    name: str
    about: str
    run: Callable[[At], Awaitable[Measured]]
    setup: Setup | None
    depth: Depth

    def included(self, depth: Depth) -> bool:
        """Say whether a run of *depth* includes this."""
        return DEPTHS.index(self.depth) <= DEPTHS.index(depth)


def case(
    name: str,
    *,
    depth: Depth | Callable[..., Depth] = "standard",
    needs: Callable[..., Setup | None] | None = None,
    **choices: Sequence[str],
) -> Callable[[Function], Function]:
    """Make cases of a function, one for each choice of what is in braces in *name*.

    *depth* is that of all, or says it for one choice; *needs* says what mesh.
    """

    def register(function: Function) -> Function:
        about = (function.__doc__ or "").partition("\n")[0]
        for values in itertools.product(*choices.values()):
            choice = dict(zip(choices, values, strict=True))
            made = Case(
                name.format(**choice),
                about,
                _bound(function, choice),
                _usual(**choice) if needs is None else needs(**choice),
                depth(**choice) if callable(depth) else depth,
            )
            CASES[made.name] = made
        return function

    return register


def _usual(mode: Any = None, **_: str) -> Setup | None:
    return None if mode is None else Setup(mode)


def _bound(
    function: Function, choice: Mapping[str, str]
) -> Callable[[At], Awaitable[Measured]]:
    return lambda at: function(at, **choice)


def chosen(depth: Depth, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the cases of a run of *depth*, or those that match a pattern of *only*."""
    for each in CASES.values():
        if any(fnmatchcase(each.name, pattern) for pattern in only) or (
            not only and each.included(depth)
        ):
            yield each
