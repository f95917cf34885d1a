"""What the project sets itself, row by row, and what AgentCube's own Go does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks._results import Results
    from benchmarks._series import Series

__all__ = ["MESH", "PARTS", "Bound", "Cell", "Row"]

Stat = Literal["p50", "p99", "typical", "most", "least"]


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure of a series, and what it may be; *limit* ``None``: it is only told."""

    series: str
    stat: Stat
    relation: Literal["<=", ">="] = "<="
    limit: float | None = None

    def of(self, series: Series) -> float:
        """Return the figure."""
        match self.stat:
            case "p50":
                return series.percentile(50)
            case "p99":
                return series.percentile(99)
            case "most":
                return max(series.samples)
            case "least":
                return min(series.samples)
            case _:
                return series.typical

    def met(self, value: float) -> bool:
        """Whether *value* keeps the bound."""
        if self.limit is None:
            return True
        return value <= self.limit if self.relation == "<=" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure that was measured, or *why* it was not.

    *bare* is that of the least which can do the same, and *share* what part of it, in
    percent, we reach; see `benchmarks._floor`.
    """

    bound: Bound
    unit: str = ""
    value: float | None = None
    why: str = ""
    bare: float | None = None
    share: float | None = None

    @classmethod
    def of(cls, bound: Bound, series: Mapping[str, Series]) -> Self | None:
        """Return what *series* hold; ``None``: they do not."""
        if (ours := series.get(bound.series)) is None:
            return None
        found = cls(bound, ours.unit, bound.of(ours))
        bare = series.get(f"bare {bound.series}")
        share = series.get(f"{bound.series} of bare")
        if bare is None or share is None or bound.stat == "p99":
            return found
        return replace(found, bare=bound.of(bare), share=share.typical)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a case, its bounds by mode, AgentCube's figures.

    Without *mtls* the bounds are the same in both modes. *agentcube* has a figure for
    each of the first bounds; *note* tells what is different about them.
    """

    name: str
    case: str
    jwt: tuple[Bound, ...]
    mtls: tuple[Bound, ...] = ()
    agentcube: tuple[float, ...] = ()
    note: str = ""

    def cells(self, results: Results, mode: str = "") -> Iterator[Cell]:
        """Yield what *results* hold for *mode*; "" where there are none."""
        outcome = results.cases.get(f"{self.case}@{mode}" if mode else self.case)
        for bound in self.mtls if mode == "mtls" and self.mtls else self.jwt:
            if outcome is None:
                yield Cell(bound, why="not run")
            else:
                why = outcome.missing or outcome.failed or "not run"
                yield Cell.of(bound, outcome.series) or Cell(bound, why=why)


def _latency(
    p50: float | None, p99: float | None = None, *, of: str = "latency"
) -> tuple[Bound, ...]:
    return (Bound(of, "p50", "<=", p50), Bound(of, "p99", "<=", p99))


def _hits(p50: float | None = None, p99: float | None = None) -> tuple[Bound, ...]:
    found = _latency(p50, p99, of="latency, warm")
    return (*found, Bound("hits", "typical", ">="))


def _at_most(limit: float, series: str) -> Bound:
    return Bound(series, "typical", "<=", limit)


def _at_least(limit: float | None, series: str) -> Bound:
    return Bound(series, "typical", ">=", limit)


def _all_served(limit: float) -> tuple[Bound, ...]:
    return (Bound("last", "most", "<=", limit), Bound("served", "least", ">=", 100))


MESH: Final = (
    Row(
        "create → RunCode, warm; of all, hits",
        "create/warm/run_code/bwrap/serial",
        _hits(8, 20),
        _hits(12, 30),
    ),
    Row(
        "create → RunCode, cold",
        "create/cold/run_code/bwrap/serial",
        _latency(32),
        _latency(38),
    ),
    Row(
        "create → Execute, warm; of all, hits",
        "create/warm/execute/bwrap/serial",
        _hits(),
    ),
    Row(
        "create → Execute, cold",
        "create/cold/execute/bwrap/serial",
        _latency(None),
    ),
    Row(
        "create → RunCode, 8 at once, pool of 2: misses; hits",
        "create/miss/run_code",
        (*_latency(None, of="latency, cold"), Bound("hits", "typical", ">=")),
    ),
    Row(
        "100 creates at once, pool of 8: the last",
        "create/warm/run_code/bwrap/100",
        _all_served(2000),
        _all_served(2500),
    ),
    Row(
        "RunCode in a live context",
        "code/live",
        _latency(1.5, 5),
        agentcube=(16.1, 25),
    ),
    Row(
        "Router hop, Stat, p50",
        "hop/stat",
        (_at_most(0.5, "hop"),),
        (_at_most(0.75, "hop"),),
        agentcube=(1.4,),
    ),
    Row(
        "small calls by one core of the Router",
        "rate/stat/1",
        (_at_least(2500, "per core"), _at_least(65, "per core of bare")),
        (_at_least(2000, "per core"), _at_least(55, "per core of bare")),
    ),
    Row(
        "calls/s, 1 worker",
        "rate/stat/1",
        (_at_least(None, "rate"),),
        agentcube=(1343,),
        note="calls that picod refuses",
    ),
    Row(
        "calls/s, 2 workers; of these by the busier one",
        "rate/stat/2",
        (_at_least(None, "rate"), Bound("busiest", "typical")),
    ),
    Row(
        "calls/s, 1 worker held to a quarter of a core",
        "rate/stat/1",
        (_at_least(None, "rate, rationed"),),
    ),
    Row(
        "calls/s, 2 workers held to a quarter of a core each",
        "rate/stat/2",
        (_at_least(None, "rate, rationed"),),
    ),
    Row(
        "Execute(true)",
        "exec/true",
        (Bound("latency", "p50", "<=", 2.1), _at_least(1000, "rate")),
        agentcube=(2.14, 928),
    ),
    Row(
        "file read through the Router",
        "bulk/read",
        (_at_least(50, "share"), _at_least(460, "routed")),
        (_at_least(40, "share"), _at_least(None, "routed")),
        agentcube=(14, 460),
        note="16 MiB",
    ),
    Row(
        "file written through the Router",
        "bulk/write",
        (_at_least(None, "share"), _at_least(None, "routed")),
        agentcube=(92, 382),
        note="16 MiB",
    ),
    Row(
        "output through the Router",
        "bulk/output",
        (_at_least(None, "share"), _at_least(None, "routed")),
    ),
    Row(
        "creates sustained, warm",
        "create/sustained/warm",
        (_at_least(100, "rate"),),
        (_at_least(80, "rate"),),
        agentcube=(16.7,),
    ),
    Row(
        "creates sustained, cold",
        "create/sustained/cold",
        (_at_least(50, "rate"),),
        (_at_least(40, "rate"),),
        agentcube=(50,),
    ),
    Row(
        "an idle sandbox, PSS, 20 alive",
        "memory/idle",
        (_at_most(12, "sandbox"),),
        (_at_most(13, "sandbox"),),
        agentcube=(11.9,),
        note="RSS of picod alone",
    ),
    Row(
        "sandboxes held before p99 doubles; --full tries more than 64",
        "memory/held",
        (_at_least(None, "held"),),
    ),
)
"""By mode: jwt and mtls."""

PARTS: Final = (
    Row("gate, a call", "identity/gate", (_at_most(10, "gate"),)),
    Row("a new peer judged", "identity/judge", (_at_most(0.3, "verify"),)),
    Row("a known peer judged again", "identity/judge", (_at_most(10, "recheck"),)),
    Row("own identity loaded", "identity/judge", (_at_most(5, "load"),)),
    Row(
        "calls/s, of gRPC's TLS; without the gate",
        "tls/calls",
        (_at_least(1, "ratio of rates, ours"), _at_least(1, "ratio of rates, ungated")),
    ),
    Row(
        "p50 above gRPC's TLS; without the gate",
        "tls/calls",
        (_at_most(0.2, "p50 above, ours"), _at_most(0.2, "p50 above, ungated")),
    ),
    Row("first call", "tls/calls", (Bound("first call, ours", "p50", "<=", 8),)),
    Row("a connected target", "tls/targets", (_at_most(400, "ours"),)),
    Row("the same by gRPC's TLS", "tls/targets", (Bound("native", "typical"),)),
    Row("an idle loader, of a core", "tls/loader", (_at_most(0.5, "cpu"),)),
    Row("traces that are off, a call", "traces/off", (_at_most(3, "call"),)),
)
"""Without a mesh."""
