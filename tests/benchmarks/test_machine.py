"""What a process weighs, and what others use of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks._machine import Others, descendants, facts, pss_mib
from benchmarks._yardsticks import yardsticks

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

_MIB = 64


@pytest.fixture
def heavy() -> Iterator[int]:
    """Start a process that has so much memory of its own; yield its pid."""
    code = f"held = bytearray({_MIB} << 20); print(1, flush=True); input()"
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
        process.kill()


def test_a_process_weighs_what_it_has(heavy: int) -> None:
    """Its own memory, and little beside: what it shares is divided."""
    assert _MIB < pss_mib(heavy) < _MIB + 30
    assert heavy in descendants(os.getpid())


def test_a_process_that_is_over_weighs_nothing() -> None:
    """Sandboxes end while they are weighed."""
    done = subprocess.Popen(["/bin/true"])
    done.wait()
    assert pss_mib(done.pid) == 0


def test_our_own_work_is_not_that_of_others() -> None:
    """What this process and its children use is not counted against the machine."""
    others = Others()
    loop = "for _ in range(3_000_000): pass"
    subprocess.run([sys.executable, "-c", loop], check=True)
    exec(loop)  # noqa: S102
    assert 0 <= others.cores() <= (os.cpu_count() or 1)


def test_facts_name_no_host() -> None:
    """What a run is taken on can be published."""
    told = str(facts())
    assert os.uname().nodename not in told
    assert "cores" in told


def test_the_kernel_takes_time_for_each_yardstick() -> None:
    """A fault, a fork and a round trip cost something, whatever the machine."""
    took = yardsticks()
    assert set(took) == {"page_fault_ns", "fork_ms", "ping_pong_us"}
    assert min(took.values()) > 0
