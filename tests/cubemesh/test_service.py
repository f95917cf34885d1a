from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from cubemesh._service import Service, ServiceError
from tests.fakes import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow
_SLEEP = "import time; time.sleep(60)"
_READY = 'import time; print(\'{"ready": true, "listen": "x:1"}\', flush=True)'


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Service]:
    def make(code: str) -> Service:
        argv = [sys.executable, "-I", "-c", code]
        return Service("thing", lambda: argv, tmp_path / "thing.log", {"A": "b"})

    return make


async def test_tells_its_ready_line(make: Callable[[str], Service]) -> None:
    """What a service says when it is ready comes back, noise before it does not."""
    service = make(f"print('noise'); {_READY}; time.sleep(60)")
    assert (await service.start())["listen"] == "x:1"
    await service.stop(signal.SIGTERM, 5)
    assert service.pid is None


async def test_a_fault_comes_back_in_its_own_words(
    make: Callable[[str], Service],
) -> None:
    """Errors, hints and exit status of a service that cannot start reach the user."""
    service = make(
        "import sys; print('error: port in use\\nhint: take another', file=sys.stderr);"
        "sys.exit(78)"
    )
    with pytest.raises(ServiceError, match="thing: port in use") as caught:
        await service.start()
    assert (caught.value.hint, caught.value.status) == ("take another", 78)


async def test_comes_back_when_it_is_killed(make: Callable[[str], Service]) -> None:
    """A service killed with -9 is started again."""
    service = make(f"{_READY}; time.sleep(60)")
    await service.start()
    back = asyncio.Event()
    first = service.pid
    assert first is not None
    async with running(service.keep(lambda _one, _status: back.set())):
        os.kill(first, signal.SIGKILL)
        await back.wait()
        async with asyncio.timeout(10):
            while service.pid in {None, first}:
                await asyncio.wait_for(_turn(), 5)
    await service.stop(signal.SIGKILL, 1)


async def test_one_that_ignores_its_signal_is_killed(
    make: Callable[[str], Service],
) -> None:
    """The end comes after the grace, whatever the service does."""
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    service = make(f"{ignore}; {_READY}; time.sleep(60)")
    await service.start()
    await service.stop(signal.SIGTERM, 0.2)
    assert service.pid is None


async def test_a_full_pipe_does_not_stop_it(
    make: Callable[[str], Service], tmp_path: Path
) -> None:
    """Output that nobody wants is read away while the service is kept."""
    mark = tmp_path / "mark"
    service = make(
        f"{_READY}; print('x' * 1_000_000, flush=True); open({str(mark)!r}, 'w');"
        "time.sleep(60)"
    )
    await service.start()
    async with running(service.keep(lambda *_: None)), asyncio.timeout(10):
        while not await asyncio.to_thread(mark.exists):
            await _turn()
    await service.stop(signal.SIGKILL, 1)


async def test_one_that_says_nothing_is_probed(tmp_path: Path) -> None:
    """Ready is when the probe says so; all its output goes into the log."""
    mark, log = tmp_path / "mark", tmp_path / "thing.log"
    code = f"print('out', flush=True); open({str(mark)!r}, 'w'); {_SLEEP}"
    service = Service(
        "thing",
        lambda: [sys.executable, "-I", "-c", code],
        log,
        {},
        probe=["/usr/bin/test", "-e", str(mark)],
    )
    assert await service.start() == {}
    assert mark.exists()
    assert log.read_text() == "out\n"
    back = asyncio.Event()
    async with running(service.keep(lambda _one, _status: back.set())):
        service.kill()
        await back.wait()
    await service.stop(signal.SIGKILL, 1)


async def test_one_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    """Logs of JSON lines are read as well: the last error is the reason."""
    lines = [
        {"level": "error", "msg": "Not this", "error": "an older one"},
        {"level": "error", "msg": "Fatal run error", "error": "address in use"},
        {"level": "info", "msg": "Catalog closed"},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines) + "[1, 2]\nnoise\n"
    service = Service(
        "thing",
        lambda: [sys.executable, "-I", "-c", f"print({text!r}); raise SystemExit(1)"],
        tmp_path / "thing.log",
        {},
        probe=["/usr/bin/false"],
    )
    with pytest.raises(ServiceError, match="thing: Fatal run error: address in use"):
        await service.start()


async def test_ends_with_its_supervisor(tmp_path: Path) -> None:
    """Services of an `up` that is killed with -9 do not stay behind."""
    code = f"""
import asyncio, json, sys
from pathlib import Path
from cubemesh._service import Service
argv = [sys.executable, "-I", "-c", {f"{_READY}; time.sleep(60)"!r}]
async def main():
    service = Service("thing", lambda: argv, Path({str(tmp_path)!r}) / "log", {{}})
    await service.start()
    print(json.dumps(service.pid), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    up = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert up.stdout is not None
    child = psutil.Process(json.loads(await up.stdout.readline()))
    up.kill()
    await up.wait()
    await asyncio.to_thread(psutil.wait_procs, [child], 10)
    assert not child.is_running()


async def _turn() -> None:
    """Let other work go on for a moment."""
    await asyncio.to_thread(os.sched_yield)
