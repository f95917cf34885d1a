"""What bounds our figures is measured by the least that can do the same job."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from benchmarks._floor import beside_bare, forks
from benchmarks._forwarder import SERVICE
from benchmarks._machine import descendants
from benchmarks._series import Series, latency
from benchmarks._targets import Bound, Cell
from tlsloader.grpc import channel

if TYPE_CHECKING:
    import grpc.aio

    from benchmarks._floor import BareSandbox

pytestmark = pytest.mark.slow


async def test_a_bare_sandbox_is_behind_bwrap_and_gives_a_result() -> None:
    """It has namespaces of its own, evaluates what it is asked, and ends whole."""
    async with forks() as made:
        end = await made.first_result()
        inside = [pid for pid in descendants(made.pid) if _isolated(pid)]
        assert inside
        await end()
        assert not any(map(psutil.pid_exists, inside))
        costs = {name: each.typical for name, each in made.costs().items()}
    assert costs["bare faults"] > 100
    assert 0 < costs["bare kernel"] < costs["bare processor"]


def _isolated(pid: int) -> bool:
    """Say whether *pid* has none of our namespaces, and a filter of system calls."""
    names = ("ipc", "mnt", "net", "pid", "user", "uts")
    own, theirs = (Path("/proc", each, "ns") for each in ("self", str(pid)))
    return (
        all((own / name).readlink() != (theirs / name).readlink() for name in names)
        and "Seccomp:\t2" in Path("/proc", str(pid), "status").read_text()
    )


async def test_it_plays_back_what_it_was_told() -> None:
    """As many messages as the real call has, also to two callers at once."""
    messages = {"RunCode": ["01", "0203"], "Execute": ["04", "05", "06"]}
    async with forks() as made:
        bare = await made.start(messages)
        for method, sent in messages.items():
            both = await asyncio.gather(*(_heard(bare, method) for _ in range(2)))
            assert both == [sent, sent]
        await bare.end()


async def _heard(bare: BareSandbox, method: str) -> list[str]:
    async with channel(bare.address) as opened:
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        call = opened.unary_stream(f"/{SERVICE}/{method}")
        return [message.hex() async for message in call(b"", timeout=30)]


def test_a_share_is_below_a_hundred_where_the_bare_one_is_better() -> None:
    """Of times it is theirs of ours, of rates ours of theirs."""
    times = beside_bare("latency", latency([[8.0]]), latency([[6.0]]))
    assert times["latency of bare"].typical == 75
    rates = [Series("/s", "higher", [[each]]) for each in (30.0, 40.0)]
    found = beside_bare("rate", *rates)
    assert found["rate of bare"].typical == 75
    assert (found["bare rate"].better, found["rate of bare"].better) == (
        "beside",
        "higher",
    )
    assert "rate of bare" not in beside_bare(
        "rate", rates[0], Series("/s", "higher", [[0.0]])
    )


def test_a_cell_has_the_bare_figure_and_the_share() -> None:
    """They stand by a median, and not by the slowest, which they say nothing of."""
    ours, bare = latency([[8.0]]), latency([[6.0]])
    series = {"latency": ours, **beside_bare("latency", ours, bare)}
    cell = Cell.of(Bound("latency", "p50"), series)
    assert cell is not None
    assert (cell.bare, cell.share) == (6, 75)
    slowest = Cell.of(Bound("latency", "p99"), series)
    assert slowest is not None
    assert slowest.share is None
    alone = Cell.of(Bound("latency", "p50"), {"latency": ours})
    assert alone is not None
    assert alone.share is None
