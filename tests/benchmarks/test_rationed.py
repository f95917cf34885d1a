"""A process that is held to a share of a core, and let go again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._rationed import rationed
from benchmarks._setup import NotAvailableError

pytestmark = pytest.mark.slow

_SPIN = """
import sys, time
for line in sys.stdin:
    began, until = time.monotonic(), time.process_time() + float(line)
    while time.process_time() < until:
        pass
    print(time.monotonic() - began, flush=True)
"""


def test_work_takes_as_much_longer_as_its_share_is_small() -> None:
    """A fifth of a second of work takes most of a second by a quarter of a core."""
    with subprocess.Popen(
        [sys.executable, "-c", _SPIN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        groups = Path(f"/proc/{process.pid}/cgroup").read_text()
        try:
            with rationed([process.pid], 0.25):
                print(0.2, file=process.stdin, flush=True)
                took = float(process.stdout.readline())
        except NotAvailableError as error:
            process.kill()
            pytest.skip(str(error))
        assert took > 0.5
        assert Path(f"/proc/{process.pid}/cgroup").read_text() == groups
        process.stdin.close()
