"""Which part of a trace takes how long: every instant belongs to one stage.

At each instant several spans run: who waits, and who is waited for. It belongs to the
deepest of them, and among equals to the one that began first. So the stages of a trace
add up to all of its time, and what runs beside it unawaited costs nothing.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks._collector import Span
    from benchmarks._series import Series

__all__ = ["STAGES", "breakdown", "middle", "stage_of"]

STAGES: Final = (
    "SDK",
    "to the Router",
    "Router",
    "to the WorkloadManager",
    "WorkloadManager",
    "identity",
    "start of PicoD",
    "binding",
    "channel",
    "handshake",
    "to PicoD",
    "PicoD",
    "runner",
    "code",
)
_PARTS: Final = {
    "engine.identity": "identity",
    "engine.start": "start of PicoD",
    "engine.bind": "binding",
    "router.channel": "channel",
    "router.handshake": "handshake",
    "picod.runner": "runner",
    "picod.code": "code",
}
_OWN: Final = {"router": "Router", "workloadmanager": "WorkloadManager"}


def stage_of(span: Span) -> str:
    """Return the stage that a span's own time, that of no span below, belongs to."""
    if span.name in _PARTS:
        return _PARTS[span.name]
    if not span.asking:
        return {"client": "SDK", "picod": "PicoD"}.get(span.service) or _OWN.get(
            span.service, span.service
        )
    if span.service == "client":
        return "to the Router"
    return "to PicoD" if ".PicoD/" in span.name else "to the WorkloadManager"


def breakdown(root: Span, spans: Iterable[Span]) -> dict[str, float]:
    """Return the milliseconds of each stage of the trace below *root*."""
    below = _below(root, spans)
    edges = sorted({at for span, _ in below for at in (span.began, span.ended)})
    took: dict[str, float] = defaultdict(float)
    for begins, ends in pairwise(edges):
        running = [each for each in below if _covers(each[0], begins, ends)]
        if running:
            span, _ = max(running, key=lambda each: (each[1], -each[0].began))
            took[stage_of(span)] += (ends - begins) / 1e6
    return dict(took)


def _covers(span: Span, begins: int, ends: int) -> bool:
    return span.began <= begins and ends <= span.ended


def _below(root: Span, spans: Iterable[Span]) -> Sequence[tuple[Span, int]]:
    """Return *root* and all below it with their depths, cut to the time of *root*."""
    children: Mapping[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.trace == root.trace:
            children[span.parent].append(span)
    found, depth, layer = [(root, 0)], 0, [root]
    while layer:
        depth += 1
        layer = [child for span in layer for child in children[span.id]]
        found += [(each.within(root), depth) for each in layer]
    return found


def middle(series: Mapping[str, Series]) -> dict[str, float]:
    """Return the mean of each stage over the traces of the middle half by length.

    Means add up to a whole; the outer quarters are left out, as they are in a median.
    """
    totals = series["total"].samples
    order = sorted(range(len(totals)), key=totals.__getitem__)
    quarter = len(order) // 4
    kept = order[quarter : len(order) - quarter]
    return {
        name: statistics.fmean(each.samples[number] for number in kept)
        for name, each in series.items()
        if name != "total"
    }
