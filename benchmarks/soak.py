"""Wear the mesh out: `make soak`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

# gRPC would write on standard error that we start processes beside it; before it loads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # noqa: TID251

from rich.console import Console
from rich.table import Table

from benchmarks._cycles import Cycles, Left, cycles
from benchmarks._machine import facts
from benchmarks._soak import Soak, soak
from clock import SYSTEM
from serving import run

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESULTS = Path(__file__).parent / "results"


async def main(told: argparse.Namespace) -> None:
    """Wear out a mesh of each mode, tell, and fail if anything did not hold."""
    result: dict[str, object] = {"at": SYSTEM.now().isoformat(), "machine": facts()}
    console, held = Console(), True
    for mode in told.modes:
        if told.minutes:
            seen = await soak(
                mode, minutes=told.minutes, rate=told.rate, streams=told.streams
            )
            result[mode] = seen.as_json()
            held = held and seen.held
            _show(console, mode, seen)
        if told.cycles:
            ended = await cycles(mode, count=told.cycles, minutes=told.cycle_minutes)
            result[f"{mode} cycles"] = ended.as_json()
            held = held and ended.held
            _show_cycles(console, mode, ended)
    told.out.mkdir(parents=True, exist_ok=True)
    file = told.out / f"soak-{SYSTEM.now():%Y%m%dT%H%M%SZ}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"all figures: {file}", soft_wrap=True)
    if not held:
        raise SystemExit(1)


def _show(console: Console, mode: str, seen: Soak) -> None:
    told = seen.as_json()
    latency = told["latency_ms"]
    console.print(
        f"{mode}: {seen.minutes:g} minutes, {seen.calls} calls "
        f"({seen.unmade} more were due), {seen.streams} streams with "
        f"{seen.lines} lines: {len(seen.failures)} failed; "
        f"p50 {latency.get('p50')} ms, p99 {latency.get('p99')} ms, "
        f"slowest {told['slowest_ms']} ms; identities changed {seen.generations}"
    )
    table = Table("process", "descriptors", "threads", "memory, MiB", "grown by")
    for name, costs in seen.costs.items():
        first, last, grown = costs[0], costs[-1], seen.grown[name]
        table.add_row(
            name,
            f"{first.descriptors} → {last.descriptors}",
            f"{first.threads} → {last.threads}",
            f"{first.rss_mib:g} → {last.rss_mib:g}",
            f"{grown.descriptors}, {grown.threads}, {grown.rss_mib:g}",
        )
    _show_end(console, table, seen.failures)
    for what, count in sorted(seen.warnings.items()):
        console.print(f"  warned {count} times: {what}", markup=False)
    console.print("all of it held" if seen.held else "it did NOT hold")


def _show_cycles(console: Console, mode: str, seen: Cycles) -> None:
    told = seen.as_json()
    latency = told["first_result_ms"]
    console.print(
        f"{mode}: {seen.count} sandboxes made and ended, {told['per_second']} a "
        f"second, {seen.warm} of them warm: {len(seen.failures)} failed; create to "
        f"first result p50 {latency.get('p50')} ms, p99 {latency.get('p99')} ms"
    )
    table = Table("what there is", "before", "after")
    for name in Left._fields:
        before, after = (
            getattr(each, name, None) for each in (seen.before, seen.after)
        )
        table.add_row(name, f"{before}", f"{after}")
    _show_end(console, table, seen.failures)
    console.print("nothing is left" if seen.held else "something IS left")


def _show_end(console: Console, table: Table, failures: Sequence[str]) -> None:
    console.print(table)
    for failure in failures[:10]:
        console.print(f"  failed: {failure}", markup=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--modes", nargs="+", choices=("mtls", "jwt"), default=["mtls"])
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of identities that change; 0: none"
    )
    parser.add_argument(
        "--cycles", type=int, default=10_000, help="sandboxes to make and end; 0: none"
    )
    parser.add_argument(
        "--cycle-minutes", type=float, default=20.0, help="that these may take"
    )
    parser.add_argument("--rate", type=float, default=300.0, help="calls per second")
    parser.add_argument("--streams", type=int, default=8, help="at any time")
    parser.add_argument("--out", type=Path, default=_RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(run(main(_arguments())))
