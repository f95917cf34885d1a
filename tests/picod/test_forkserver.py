"""The parent of PicoDs as a real process, and what its children have of it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import psutil
import pytest

from workloadmanager._process import start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SIGNALS = """
import json, signal

def signals():
    return {each.name: str(signal.getsignal(each)) for each in signal.Signals}
"""
FRESH = SIGNALS + "print(json.dumps(signals()))"
PROBE = (
    SIGNALS
    + """
import asyncio, os, random, ssl, sys, uuid
from cryptography.hazmat.primitives.asymmetric import ec
from picod import forkserver

def probe(order):
    try:
        asyncio.get_running_loop()
        loop = True
    except RuntimeError:
        loop = False
    key = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    told = {
        "argv": order.argv,
        "environ": dict(os.environ),
        "session": os.getsid(0) == os.getpid(),
        "folder": os.getcwd(),
        "descriptors": {
            each: os.readlink(f"/proc/self/fd/{each}")
            for each in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{each}")
        },
        "signals": signals(),
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "threads": len(os.listdir("/proc/self/task")),
        "loop": loop,
        "random": [
            random.random(), random.SystemRandom().random(), ssl.RAND_bytes(8).hex(),
            os.urandom(8).hex(), str(uuid.uuid4()), str(key),
        ],
    }
    sys.stdout.write(json.dumps(told) + "\\n")
    sys.stdout.flush()
    if "wait" in order.flags:
        signal.pause()
    return 3 if "fail" in order.flags else 0
"""
)
SERVE = PROBE + "sys.exit(forkserver.main(probe, look=0.05))"
USES_GRPC = (
    PROBE
    + "import grpc; opened = grpc.insecure_channel('unix:/nonexistent'); "
    + "opened.subscribe(print, try_to_connect=True); "
    + "sys.exit(forkserver.main(probe))"
)


class Child:
    """What a test sees of one PicoD that was ordered."""

    def __init__(self, line: socket.socket, log: Path) -> None:
        self.log = log
        self._file = line.makefile("rb")
        self._line = line
        with line:
            data, passed, *_ = socket.recv_fds(line, 64, 1)
        self.mark: dict[str, int] = json.loads(data or b"{}")
        self.pidfd = passed[0] if passed else -1

    @property
    def alive(self) -> bool:
        return not select.select([self.pidfd], [], [], 0)[0]

    def said(self) -> dict[str, Any]:
        """Return its next word; nothing if it ended."""
        return json.loads(self._file.readline() or b"{}")  # type: ignore[no-any-return]

    def ended(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 10)[0])

    def close(self) -> None:
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.close(self.pidfd)
        self._file.close()


class Parent:
    """A fork server whose children run the probe."""

    def __init__(self, folder: Path, code: str = SERVE) -> None:
        self.folder, self.children = folder, 0
        self.log = folder / "log"
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-I", "-c", code]
        with theirs, self.log.open("wb") as log:
            started = start(argv, {}, (log.fileno(), log.fileno(), theirs.fileno()))
        self.pid = started.pid
        self.status: int | None = None

    def __enter__(self) -> Self:
        self.ours.settimeout(30)
        assert self.ours.recv(64) == b"ready", self.log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.wait()

    def wait(self) -> int:
        """Return what it ends with."""
        if self.status is None:
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def order(self, *argv: str, wanted: bool = True, **environ: str) -> Child:
        """Order one child."""
        self.children += 1
        log = self.folder / f"log-{self.children}"
        ours, theirs = socket.socketpair()
        with theirs, log.open("wb") as file:
            told = {"flags": argv, "own": {"--own": "1"}, "environment": environ}
            message = json.dumps(told).encode()
            if not wanted:
                ours.shutdown(socket.SHUT_RDWR)
            socket.send_fds(self.ours, [message], [theirs.fileno(), file.fileno()])
        return Child(ours, log)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    with Parent(tmp_path) as parent:
        yield parent


def test_a_child_has_nothing_of_its_parent_but_code(parent: Parent) -> None:
    """Not its session, descriptors, signals, environment, threads or event loops."""
    child = parent.order("a", "b", TOLD="this", PATH="/else")
    told = child.said()
    assert child.mark["pid"] != parent.pid
    assert told["argv"] == ["a", "b", "--own", "1"]
    assert told["environ"] == {"TOLD": "this", "PATH": "/else"}
    assert told["session"]
    assert told["folder"] == "/"
    where = told["descriptors"]
    assert set(where) == {"0", "1", "2"}
    assert where["0"] == "/dev/null"
    assert where["2"] == str(child.log)
    assert told["blocked"] == 0
    assert (told["threads"], told["loop"]) == (1, False)
    fresh = subprocess.check_output([sys.executable, "-I", "-c", FRESH])
    assert told["signals"] == json.loads(fresh)
    child.close()


def test_no_two_children_draw_the_same_lot(parent: Parent) -> None:
    """Every source of randomness starts afresh in each."""
    one, two = parent.order(), parent.order()
    drawn = [one.said()["random"], two.said()["random"]]
    assert all(a != b for a, b in zip(*drawn, strict=True))
    for child in (one, two):
        child.close()


def test_children_outlive_their_parent(parent: Parent) -> None:
    """Also one that was killed."""
    child = parent.order("wait")
    assert child.said()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert child.alive
    child.close()


def test_the_dead_are_buried(parent: Parent) -> None:
    """No child stays a zombie, and how it failed is told on its line."""
    child = parent.order("fail")
    assert child.said()["argv"][0] == "fail"
    assert child.said() == {"status": 3}
    assert child.ended()
    assert parent.order().said()  # it has had the time
    assert child.mark["pid"] not in psutil.pids()
    child.close()


def test_what_nobody_waits_for_is_not_made(parent: Parent) -> None:
    """Whoever ordered has hung up: the child does not even begin."""
    child = parent.order(wanted=False)
    assert child.mark == {}
    assert parent.order().said()  # and its parent goes on
    assert child.log.read_text() == ""


def test_a_parent_that_has_used_grpc_makes_no_children(tmp_path: Path) -> None:
    """They would hang: it says so and ends, and the order is seen to have failed."""
    with Parent(tmp_path, USES_GRPC) as parent:
        child = parent.order()
        assert child.mark == {}
        assert parent.wait() == 70
    text = parent.log.read_text()
    assert "error: this fork server is not fit to be forked: " in text
    assert "threads" in text


def test_changed_code_ends_the_parent_alone(tmp_path: Path) -> None:
    """Whoever keeps it starts a new one, of the new code; children live on."""
    module = tmp_path / "part.py"
    module.write_text("version = 1\n")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import part\n" + SERVE
    with Parent(tmp_path, code) as parent:
        child = parent.order("wait")
        assert child.said()
        module.write_text("version = 22\n")
        assert parent.wait() == 0
        assert child.alive
        child.close()


def test_it_ends_with_whoever_orders(parent: Parent) -> None:
    """A WorkloadManager that is gone leaves no fork server behind."""
    parent.ours.close()
    assert parent.wait() == 0
