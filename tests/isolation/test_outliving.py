"""Code that wants to stay: after its command, after its session, whatever it does."""

from __future__ import annotations

import signal
from contextlib import aclosing

import psutil
import pytest

from picod._errors import RunnerFaultError
from picod._runner import Cause, Command, Output, Started
from tests.isolation.levels import each_level, isolated
from tests.picod.sandboxes import run, singly

MARK = "4716.3"
# Each leaves processes behind that do not want to end.
WAYS = {
    "a double fork": "import os\nif os.fork(): os._exit(0)\nif os.fork(): os._exit(0)",
    "a session of its own": "import os\nif os.fork(): os._exit(0)\nos.setsid()",
    "ignoring signals": """
import os, signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
if os.fork(): os._exit(0)
""",
    "stopping itself": """
import os, signal
if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)
if os.fork(): os._exit(0)
""",
    "stopping its keeper": """
import os, signal
parent = os.getppid()
if os.fork(): os._exit(0)
os.kill(parent, signal.SIGSTOP)
""",
    "killing its keeper": """
import os, signal
parent = os.getppid()
if os.fork() == 0:
    os.kill(parent, signal.SIGKILL)
""",
    "chasing the table": """
import os
for _ in range(20):
    if os.fork() == 0:
        while True:
            if os.fork(): os._exit(0)
""",
}
STAY = f"""
import os, time
os.close(1); os.close(2)
while True: time.sleep({MARK})
"""


@each_level
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_outliving_the_command(level: str, way: str) -> None:
    """When a command is over nothing of it is left, and the next one runs."""
    async with isolated(level) as runner:
        program = ("/usr/bin/python3", "-c", WAYS[way] + STAY)
        try:
            await run(runner, *program, timeout=3)
        except RunnerFaultError:  # gVisor forks faster than it kills: all is ended
            assert (level, way) == ("gvisor", "chasing the table")
            await runner.wait_ended()
            return
        seen = await run(runner, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert MARK.encode() not in seen.stdout
        assert runner.fault is None


@each_level
@pytest.mark.slow
async def test_outliving_the_session(level: str) -> None:
    """When a session ends, so does every process of it, stopped ones and all."""
    async with isolated(level) as runner:
        ways = "\n".join(
            f"if os.fork() == 0:\n exec({way!r}); exec({STAY!r})"
            for way in WAYS.values()
        )
        code = f"import os\n{ways}\nprint('there', flush=True)\nos.read(0, 1)"
        family = psutil.Process(runner.pid)
        command = Command(("/usr/bin/python3", "-c", code), timeout=60)
        async with aclosing(singly(runner.execute(command))) as events:
            async for event in events:
                if isinstance(event, Output):
                    break
            processes = [family, *family.children(recursive=True)]
            await runner.aclose()
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


@each_level
@pytest.mark.slow
async def test_not_ending_at_the_timeout(level: str) -> None:
    """A command's time is up when it is up, with stopped and deaf processes, too."""
    code = WAYS["ignoring signals"] + WAYS["a session of its own"] + STAY
    async with isolated(level) as runner:
        shell = f"python3 -c '{code}' & while :; do :; done"
        result = await run(runner, "sh", "-c", shell, timeout=2)
        assert result.exited.cause is Cause.TIMEOUT
        assert result.exited.signal == signal.SIGKILL
        assert (await run(runner, "true")).code == 0


@pytest.mark.slow
async def test_hanging_up_ends_it() -> None:
    """A caller who goes away takes the whole command along."""
    async with isolated("bwrap") as runner:
        code = WAYS["ignoring signals"] + STAY
        async with aclosing(
            singly(runner.execute(Command(("python3", "-c", code))))
        ) as events:
            assert isinstance(await anext(events), Started)
        seen = await run(runner, "sh", "-c", "cat /proc/[0-9]*/cmdline")
        assert MARK.encode() not in seen.stdout
