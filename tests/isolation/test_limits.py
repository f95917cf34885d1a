"""Code that uses up what there is: it fails, and neither PicoD nor a neighbour does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from picod._errors import RunnerFaultError
from picod._groups import make_group
from picod._runner import Cause, Limits
from tests.isolation.hosts import UIDS
from tests.picod.sandboxes import python, run, sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from picod._runner import Runner

MIB = 1 << 20
TIGHT = Limits(memory=192 * MIB, processes=40, inodes=2000, output=MIB, open_files=100)


@asynccontextmanager
async def tight(by: str) -> AsyncIterator[Runner]:
    """Run a small sandbox whose limits are kept *by* the kernel or by the runner."""
    group = None
    if by == "group":
        group = make_group(
            "cubemesh-test-tight", memory=TIGHT.memory, processes=TIGHT.processes
        )
        if group is None:
            pytest.skip("no control group can be made here")
    try:
        async with sandbox(uid=UIDS[0], limits=TIGHT, group=group) as runner:
            yield runner
    finally:
        if group is not None:
            group.close()
            assert not any(folder.exists() for folder in group.folders)


both = pytest.mark.parametrize("by", ["group", "runner"])


@both
@pytest.mark.slow
async def test_filling_memory(by: str) -> None:
    """Processes that each keep within it are ended once they are too much together."""
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        held = bytearray(100 << 20)
        time.sleep(20)
        os._exit(0)
for _ in range(3):
    assert os.wait()[1] == 0
"""
    async with tight(by) as runner:
        result = await python(runner, code, timeout=30)
        assert result.exited.cause is Cause.MEMORY_LIMIT
        assert await runner.incident() == "OUT_OF_MEMORY"
        assert (await run(runner, "echo", "alive")).stdout == b"alive\n"


@both
@pytest.mark.slow
async def test_memory_that_no_process_holds(by: str) -> None:
    """What lies in files of tmpfs counts, and ends before memory does."""
    code = "for d in workspace tmp dev/shm; do cat /dev/zero > /$d/fill; done; exit 3"
    async with tight(by) as runner:
        result = await run(runner, "sh", "-c", code)
        assert result.code == 3
        assert result.stderr.count(b"No space left") == 3
        assert await runner.incident() == "NO_SPACE"
        await runner.remove(b"/workspace/fill")
        assert (await run(runner, "sh", "-c", "echo x > y")).code == 0


@pytest.mark.slow
async def test_memory_that_only_the_kernel_sees() -> None:
    """Where a group holds, memory counts that is mapped by nobody at all."""
    code = """
import os
held = []
while True:
    held.append(os.memfd_create("x"))
    os.write(held[-1], bytes(8 << 20))
"""
    async with tight("group") as runner:
        result = await python(runner, code, timeout=30)
        assert result.exited.cause is Cause.MEMORY_LIMIT
        assert (await run(runner, "true")).code == 0


@both
@pytest.mark.slow
async def test_filling_the_process_table(by: str) -> None:
    """Forking in a loop ends at the limit, and the sandbox works on afterwards."""
    code = """
import os
pids = []
try:
    while True:
        pids.append(os.fork())
        if pids[-1] == 0:
            os.read(os.pipe()[0], 1)
except OSError as error:
    print(len(pids), error.errno)
"""
    async with tight(by) as runner:
        result = await python(runner, code, timeout=30)
        count, number = map(int, result.stdout.split())
        assert count < TIGHT.processes
        assert number == 11
        if by == "group":
            assert await runner.incident() == "PROCESS_LIMIT"
        assert (await run(runner, "true")).code == 0


@pytest.mark.slow
async def test_a_bomb_of_forks() -> None:
    """Every process of a bomb forks on; hanging up or its timeout ends all of them."""
    code = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    async with tight("group") as runner:
        result = await python(runner, code, timeout=1.5)
        assert result.exited.cause is Cause.TIMEOUT
        assert (await run(runner, "true")).code == 0


@both
@pytest.mark.slow
async def test_filling_the_inodes(by: str) -> None:
    """Neither /workspace nor /tmp nor /dev/shm holds more files than allowed."""
    code = """
import os, time
for place in ("/workspace", "/tmp", "/dev/shm"):
    try:
        for number in range(10000):
            os.close(os.open(f"{place}/{number}", os.O_CREAT))
    except OSError as error:
        print(number, error.errno)
time.sleep(2)
"""
    async with tight(by) as runner:
        result = await python(runner, code, timeout=30)
        if UIDS[0]:
            assert result.stdout == b"1999 28\n" * 3
        else:
            assert result.exited.cause is Cause.SPACE_LIMIT
        assert await runner.incident() == "NO_SPACE"


async def test_filling_the_output() -> None:
    """A command that writes on and on is ended, and nothing of it stays in memory."""
    async with tight("runner") as runner:
        result = await run(runner, "cat", "/dev/zero")
        assert result.exited.cause is Cause.OUTPUT_LIMIT
        assert len(result.stdout) == TIGHT.output


async def test_filling_the_descriptors() -> None:
    """A process opens as many files as allowed; others are not touched."""
    code = """
held = []
try:
    while True:
        held.append(open("/dev/null"))
except OSError as error:
    print(len(held) + 3, error.errno)
"""
    async with tight("runner") as runner:
        result = await python(runner, code)
        assert result.stdout.split() == [b"100", b"24"]
        assert (await run(runner, "true")).code == 0


@pytest.mark.slow
async def test_using_the_processor_for_ever() -> None:
    """Processor time is limited, whatever signals are ignored."""
    code = "import signal\nsignal.signal(24, signal.SIG_IGN)\nwhile True: pass"
    limits = Limits(cpu_seconds=1)
    async with sandbox(uid=UIDS[0], limits=limits) as runner:
        result = await python(runner, code, timeout=30)
        assert result.exited.signal == 9


@pytest.mark.slow
async def test_a_neighbour_does_not_notice() -> None:
    """While one sandbox breaks all its limits, another answers as before."""
    code = """
import os
for _ in range(4):
    if os.fork() == 0:
        held = []
        while True:
            try: held.append(bytearray(4 << 20)); os.fork()
            except (OSError, MemoryError): pass
os.wait()
"""
    async with tight("group") as wild, sandbox(uid=UIDS[1]) as calm:
        await python(wild, code, timeout=2)
        for _ in range(20):
            assert (await run(calm, "echo", "calm")).stdout == b"calm\n"
        assert calm.fault is None
        assert await calm.incident() == ""


@pytest.mark.root
@pytest.mark.slow
async def test_killing_the_runner_by_memory() -> None:
    """Code that makes itself the last one to be chosen ends its own sandbox by it."""
    code = """
import os, time
open("/proc/self/oom_score_adj", "w").write("0")
held = [os.memfd_create("x") for _ in range(2)]
for number in held:
    os.posix_fallocate(number, 0, 150 << 20)
"""
    async with tight("group") as runner:
        with pytest.raises(RunnerFaultError):  # noqa: PT012  # by which one is chance
            for _ in range(50):
                await python(runner, code, timeout=30)
        await runner.wait_ended()
        assert runner.fault_reason == "OUT_OF_MEMORY"
