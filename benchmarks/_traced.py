"""A process that makes sandboxes under OpenTelemetry.

    python -m benchmarks._traced MODE START WORK SECONDS

It is one of its own, since the SDK tells its calls where OpenTelemetry is loaded: the
others shall not pay for that. Prints one JSON object: the milliseconds of each trace,
and of each stage in it, in the same order.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from benchmarks._collector import collector, provider
from benchmarks._servers import CubeMesh
from benchmarks._setup import TEMPLATE, NotAvailableError, Setup, running
from benchmarks._stages import STAGES, breakdown
from benchmarks.cases.create import POOL, filled
from serving import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks._collector import Collector, Span
    from benchmarks._servers import Server, Work

_ROOT: Final = "create to first result"
_FEWEST: Final = 4
_ARRIVED: Final = 30.0
_LAST: Final = (  # what each service tells last of the making and use of a sandbox
    ("workloadmanager", "cubemesh.v1.WorkloadManager/CreateSession"),
    ("router", "cubemesh.v1.PicoD/"),
    ("picod", "cubemesh.v1.PicoD/"),
)


async def main(mode: Any, start: str, work: Work, seconds: float) -> None:
    """Make sandboxes, one after the other, and tell where the time went."""
    pool = POOL if start == "warm" else 0
    try:
        async with collector() as told:
            setup = Setup(mode, pool=pool, otlp=told.endpoint)
            async with running(setup) as mesh:
                server = CubeMesh(mesh.profile, TEMPLATE)
                found = await _told(told, server, work, seconds, ahead=pool > 0)
    except NotAvailableError as error:
        found = {"missing": str(error)}
    print(json.dumps(found), flush=True)


async def _told(
    told: Collector, server: Server, work: Work, seconds: float, *, ahead: bool
) -> dict[str, Any]:
    trace.set_tracer_provider(provider(told))
    if ahead:
        await filled(server)()
    told.spans.clear()
    await _make(server, work, seconds)
    async with asyncio.timeout(_ARRIVED):
        spans = await told.until(_complete)
    return _by_stage(spans)


async def _make(server: Server, work: Work, seconds: float) -> None:
    tracer, until = trace.get_tracer("benchmarks"), time.monotonic() + seconds
    made = 0
    while made < _FEWEST or time.monotonic() < until:
        with tracer.start_as_current_span(_ROOT):
            box = await server.create()
            await getattr(box, work)()
        await box.destroy()
        made += 1


def _complete(spans: Sequence[Span]) -> bool:
    """Say whether all services have told of all traces."""
    roots = {each.trace for each in spans if each.name == _ROOT}
    answered = [each for each in spans if not each.asking]
    return all(
        {
            each.trace
            for each in answered
            if each.service == service and each.name.startswith(name)
        }
        >= roots
        for service, name in _LAST
    )


def _by_stage(spans: Sequence[Span]) -> dict[str, list[float]]:
    roots = [each for each in spans if each.name == _ROOT]
    found = {"total": [(root.ended - root.began) / 1e6 for root in roots]}
    parts = [breakdown(root, spans) for root in roots]
    for stage in STAGES:
        took = [each.get(stage, 0.0) for each in parts]
        if any(took):
            found[stage] = took
    return found


if __name__ == "__main__":
    mode, start, work, seconds = sys.argv[1:]
    raise SystemExit(run(main(mode, start, work, float(seconds))))  # type: ignore[arg-type]
