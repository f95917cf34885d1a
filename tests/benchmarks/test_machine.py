"""What a process weighs, and what others use of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
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


_BURN = "import time\nwhile time.process_time() < 1: pass\n"
_UNWAITED = f"""
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if not os.fork():
    exec({_BURN!r})
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    pass
"""


@pytest.mark.parametrize("code", [_BURN, _UNWAITED], ids=["waited", "unwaited"])
def test_our_own_work_is_not_that_of_others(code: str) -> None:
    """Others used no more than the machine, less what ours did that are gone now."""
    others, busy, began = Others(), _busy(), time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    used = others.cores()["others_cores"] * (time.monotonic() - began)
    assert used + 1 <= _busy() - busy + 0.3


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def test_what_others_do_is_told() -> None:
    """A process that is not below us counts as another's; and it may have ended."""
    others, began = Others(), time.monotonic()
    with subprocess.Popen(
        ["/usr/bin/setsid", "--fork", sys.executable, "-c", _BURN],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.read()
    used = others.cores()["others_cores"] * (time.monotonic() - began)
    assert used > 0.9


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
