"""All cases in all modes: JSON into benchmarks/results/, a table to stdout."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console
from rich.table import Table

from benchmarks import _cases as cases
from benchmarks._echo import echo
from benchmarks._figures import Target
from benchmarks._machine import facts, rss_mib
from benchmarks._mesh import Mesh, Mode, direct, mesh, routed
from clock import SYSTEM
from cubemesh import AsyncSandbox
from serving import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from benchmarks._mesh import Direct

__all__ = ["bench"]

_RESULTS = Path(__file__).parent / "results"
_HOP_MS = {"mtls": 0.9, "jwt": 0.6}
_READ = {"mtls": 0.30, "jwt": 0.40}
_QUIET = 0.5  # load of a machine whose absolute figures mean something
_ECHO_MS = 0.23  # of the machine that the absolute targets were set on
_SANDBOX_DOMAIN = "sandbox.cluster.local"


async def measure(mode: Mode, told: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of one mode."""
    async with mesh(mode) as at:
        idle = rss_mib(at.router)
        async with (
            await AsyncSandbox.create(profile=at.profile) as sandbox,
            routed(at) as front,
            direct(at, sandbox) as behind,
            _forwarder(at, behind) as (forwarder, bare_channel),
        ):
            through = cases.way(front, ("x-agentcube-session-id", sandbox.session_id))
            straight = cases.way(behind.channel, *behind.metadata)
            bare = cases.way(bare_channel, *behind.metadata)
            figures = {
                "echo_ms": await echo(str(at.folder)),
                "stat": await cases.hop(through, straight, calls=told.calls),
                "bare_forwarder_stat": await cases.hop(
                    bare, straight, calls=told.calls // 2
                ),
                "rate": await cases.rate(through, at.router, seconds=told.seconds),
                "bare_forwarder_rate": await cases.rate(
                    bare, forwarder, seconds=told.seconds
                ),
                "read": await cases.read(
                    through, straight, at.router, mib=told.mib, rounds=2
                ),
                "create_to_first_output_ms": await cases.first_output(
                    at, rounds=told.creates
                ),
            }
        return {
            **figures,
            "router_rss_mib": {
                "idle": round(idle, 1),
                "after": round(rss_mib(at.router), 1),
            },
        }


@asynccontextmanager
async def _forwarder(at: Mesh, to: Direct) -> AsyncIterator[tuple[int, Any]]:
    """Run the bare forwarder in front of the same PicoD; yield its pid and channel."""
    identity = at.identity
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks._forwarder"),
        *("--key", identity.key, "--chain", identity.chain),
        *("--bundle", identity.bundle, "--to", to.address),
        *("--foreign", f"{_SANDBOX_DOMAIN}={at.bundle(_SANDBOX_DOMAIN)}"),
        *("--expected", to.spiffe_id, "--admit", "spiffe://cluster.local/user/"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None  # noqa: S101
    try:
        ready = json.loads(await process.stdout.readline())
        async with routed(at, ready["listen"]) as opened:
            yield process.pid, opened
    finally:
        process.kill()
        await process.wait()


def targets(mode: Mode, figures: dict[str, Any]) -> Iterator[Target]:
    """Yield what the project promises, beside what was measured."""
    per_core = figures["rate"]["calls_per_core_s"]
    slower = figures["echo_ms"]["p50"] / _ECHO_MS
    of_bare = per_core / figures["bare_forwarder_rate"]["calls_per_core_s"]
    hop = figures["stat"]["hop_ms"]["p50"]
    yield Target("Router hop, p50", hop, "ms", "<=", _HOP_MS[mode])
    scaled = round(hop / slower, 3)
    yield Target("the same, scaled by the echo", scaled, "ms", "<=", _HOP_MS[mode])
    yield Target("Stat through the Router, per core", per_core, "calls/s", ">=", 2000)
    yield Target("of a bare forwarder's", round(of_bare, 2), "ratio", ">=", 0.55)
    read = figures["read"]
    yield Target("read, of the direct rate", read["ratio"], "ratio", ">=", _READ[mode])
    yield Target("Router's growth meanwhile", read["growth_mib"], "MiB", "<=", 64)
    idle = figures["router_rss_mib"]["idle"]
    yield Target("idle Router", idle, "MiB", "<=", 90)


async def main(told: argparse.Namespace) -> None:
    """Measure every mode that was asked for, and tell."""
    result: dict[str, Any] = {"at": SYSTEM.now().isoformat(), "machine": facts()}
    table = Table("mode", "figure", "value", "target", "met", title="CubeMesh")
    for mode in told.modes:
        figures = await measure(mode, told)
        reached = list(targets(mode, figures))
        result[mode] = {**figures, "targets": [each.as_json() for each in reached]}
        for each in reached:
            row = each.as_json()
            value = f"{row['value']:g} {row['unit']}"
            met = "yes" if each.met else "no"
            table.add_row(mode, each.name, value, row["target"], met)
        first = figures["create_to_first_output_ms"]
        spread = f"{first['p50']:g} / {first['p95']:g} ms"
        machine = f"{figures['echo_ms']['p50']:g} ms, where targets were set {_ECHO_MS}"
        table.add_row(mode, "a gRPC echo, p50: the machine", machine, "", "")
        bare = figures["bare_forwarder_stat"]["hop_ms"]["p50"]
        table.add_row(mode, "a bare forwarder's hop, p50", f"{bare:g} ms", "", "")
        table.add_row(mode, "create to first output, p50 / p95", spread, "", "")
    told.out.mkdir(parents=True, exist_ok=True)
    file = told.out / f"{SYSTEM.now():%Y%m%dT%H%M%SZ}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    console = Console()
    console.print(table)
    if (load := result["machine"]["load_before"]) > _QUIET:
        console.print(f"the machine is busy (load {load:g}): trust the ratios only")
    console.print(f"all figures: {file}", soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    modes = get_args(Mode)
    parser.add_argument("--modes", nargs="+", choices=modes, default=list(modes))
    parser.add_argument(
        "--calls", type=int, default=1000, help="of each kind, by turns"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="at 64 in flight")
    parser.add_argument("--mib", type=int, default=256, help="size of the file to read")
    parser.add_argument("--creates", type=int, default=10, help="sandboxes to make")
    parser.add_argument(
        "--out", type=Path, default=_RESULTS, help="folder for the JSON"
    )
    return parser.parse_args()


def bench() -> int:
    """Read the command line, measure, and return the exit status."""
    return run(main(_arguments()))
