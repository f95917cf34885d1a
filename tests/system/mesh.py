"""A whole mesh in processes of its own, as its users start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.logs import records
from tests.processes import logging_into

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CUBEMESH = (sys.executable, "-I", "-m", "cubemesh")
_PATIENCE = 60.0


@dataclass(frozen=True)
class Done:
    """A command that is over."""

    status: int
    out: str
    err: str


def cubemesh(
    *argv: str,
    profile: Path | None = None,
    stdin: bytes = b"",
    timeout: float = 60,
    **environ: str,
) -> Done:
    """Run one command of the CLI to its end."""
    ours = {name: os.environ[name] for name in ("HOME", "PATH")}  # noqa: TID251
    if profile is not None:
        environ["CUBEMESH_PROFILE"] = str(profile)
    done = subprocess.run(
        [*CUBEMESH, *argv],
        input=stdin,
        capture_output=True,
        env=ours | environ,
        timeout=timeout,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


class Up:
    """One running `cubemesh up`."""

    def __init__(self, folder: Path, *options: str, **environ: str) -> None:
        self.state, self.profile = folder / "state", folder / "profile.json"
        argv = [
            *(*CUBEMESH, "up", "--json", "--state", str(self.state)),
            *("--profile", str(self.profile), *options),
        ]
        self.errors = folder / "up.err"
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                argv,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
                env={**os.environ, **environ},  # noqa: TID251
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        self.said: dict[str, Any] = json.loads(line)
        self.runtime = Path(self.said["runtime"])

    def cli(self, *argv: str, stdin: bytes = b"", timeout: float = 60) -> Done:
        """Run one command against this mesh."""
        return cubemesh(*argv, profile=self.profile, stdin=stdin, timeout=timeout)

    def service(self, name: str) -> psutil.Process:
        """Return the process of a service as it is now."""
        for child in psutil.Process(self.process.pid).children():
            if name in child.cmdline()[:4]:
                return child
        raise LookupError(name)

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return what *name* has logged."""
        return records(self.state / "logs" / f"{name}.log")

    def sandbox_of(self, session_id: str) -> str:
        """Return the id of a session's sandbox; others wait beside it for theirs."""
        for each in self.records("workloadmanager"):
            if each["event"] == "session ready" and each["session_id"] == session_id:
                return str(each["sandbox_id"])
        raise LookupError(session_id)

    def processes(self) -> list[psutil.Process]:
        """Return every process that belongs to this mesh, wherever it hangs."""
        places = (str(self.state), str(self.runtime))
        found = []
        for process in logging_into(self.state):
            found += [process, *_children(process)]
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if any(place in words for place in places):
                found += [process, *_children(process)]
        return [each for each in set(found) if each.pid != os.getpid()]

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        """Send *how*; return its exit status."""
        self.process.send_signal(how)
        status = self.process.wait(_PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextmanager
def up(folder: Path, *options: str, **environ: str) -> Iterator[Up]:
    """Run a mesh while the block runs; then nothing of it may be left."""
    mesh = Up(folder, *options, **environ)
    try:
        yield mesh
    finally:
        if mesh.process.poll() is None:
            mesh.end()
        left = mesh.processes()
        for process in left:
            process.kill()
    assert left == []
    assert not mesh.runtime.exists()
    assert not mesh.profile.exists()


def eventually(condition: Callable[[], Any], *, within: float = 30.0) -> Any:
    """Return the first true value of *condition*; fail if none comes."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            if found := condition():
                return found
        except (LookupError, OSError, psutil.Error):
            pass
        os.sched_yield()
        time.sleep(0.02)  # another process is the one to act
    raise AssertionError("it did not happen in time")


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []
